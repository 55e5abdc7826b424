"""Tables and transcripts as editors and spreadsheets save them: encodings, separators, decimal commas, booleans."""

from pathlib import Path

import pandas as pd
import pytest
from table_files import messages, read_text_table

from emi_ray.config import CorpusSettings
from emi_ray.corpus.encodings import decode
from emi_ray.corpus.manifest import read_corpus
from emi_ray.errors import UserError
from emi_ray.schema import Label

TEXT = "clip_id,split,video,transcript,Joy\n1,train,a.mp4,“café” — żółć 😀,0.5\n2,val,b.mp4,naïve,0\n"


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"]
)
def test_a_table_in_any_encoding_of_unicode_reads_alike(tmp_path: Path, encoding: str) -> None:
    corpus = read_text_table(tmp_path, TEXT.encode(encoding))
    assert corpus.clips["transcript"].to_pylist() == ["“café” — żółć 😀", "naïve"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig", "utf-32"])
@pytest.mark.parametrize("said", ["what a day", "ç'est \u2019là", "我很高兴 。\n", "ok"])
def test_a_transcript_file_in_any_encoding_of_unicode_reads_alike(
    tmp_path: Path, encoding: str, said: str
) -> None:
    (tmp_path / "said.txt").write_bytes(said.encode(encoding))
    corpus = read_text_table(tmp_path, "clip_id,transcript\n1,said.txt\n")
    assert corpus.clips["transcript"].to_pylist() == [said.strip()]


def test_japanese_with_escape_sequences_reads_as_such() -> None:
    assert decode("とても嬉しい".encode("iso2022_jp"), "said.txt") == "とても嬉しい"


@pytest.mark.parametrize("encoding", ["cp1252", "cp1251", "shift_jis", "gb18030"])
def test_other_encodings_are_never_guessed_but_read_when_named(tmp_path: Path, encoding: str) -> None:
    said = {"cp1252": "“naïve” café", "cp1251": "какой день", "shift_jis": "嬉しい", "gb18030": "我很高兴"}[
        encoding
    ]
    (tmp_path / "said.txt").write_bytes(said.encode(encoding))
    table = "clip_id,transcript\n1,said.txt\n"
    with pytest.raises(UserError, match=r"said\.txt is not UTF-8 \(line 1\).*'corpus\.encoding=cp1252'"):
        read_text_table(tmp_path, table)
    corpus = read_text_table(tmp_path, table, encoding=encoding)
    assert corpus.clips["transcript"].to_pylist() == [said]
    (tmp_path / "said.txt").write_text(said)
    assert read_text_table(tmp_path, table, encoding=encoding).clips.equals(corpus.clips)


def test_the_refusal_shows_how_the_place_reads_in_cp1252(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"clips\.csv is not UTF-8 \(line 3\)\. If '2,a café' is the correct text"
    ):
        read_text_table(tmp_path, "clip_id,transcript\n1,fine\n2,a café\n".encode("cp1252"))


def test_several_unreadable_transcripts_are_counted(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match=r"a\.txt is not UTF-8.*2 other files"):
        read_text_table(tmp_path, "clip_id,transcript\n1,a.txt\n2,b.txt\n3,c.txt\n")


def test_an_encoding_that_python_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="no such encoding"):
        CorpusSettings(encoding="cp-1252-nowhere")


def test_bytes_that_are_no_text_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "said.txt").write_bytes(bytes(range(256)))
    with pytest.raises(UserError, match=r"said\.txt contains zero bytes and is not text"):
        read_text_table(tmp_path, "clip_id,transcript\n1,said.txt\n")


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_other_separators_are_recognised(tmp_path: Path, mark: str) -> None:
    expected = read_text_table(tmp_path, TEXT).clips
    assert read_text_table(tmp_path, TEXT.replace(",", mark)).clips.equals(expected)
    assert read_text_table(tmp_path, TEXT.replace(",", mark).encode("utf-16")).clips.equals(expected)


def test_the_first_line_by_which_excel_names_the_separator_is_no_header(tmp_path: Path) -> None:
    text = TEXT.replace(",", ";")
    assert read_text_table(tmp_path, "sep=;\r\n" + text).clips.equals(read_text_table(tmp_path, text).clips)


def test_commas_within_a_table_of_semicolons_are_text(tmp_path: Path) -> None:
    corpus = read_text_table(tmp_path, "clip_id;transcript\n1;well, well, well\n2;no\n")
    assert corpus.clips["transcript"].to_pylist() == ["well, well, well", "no"]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_lines_end_as_any_system_ends_them(tmp_path: Path, newline: str) -> None:
    assert read_text_table(tmp_path, TEXT.replace("\n", newline)).clips.num_rows == 2


@pytest.mark.parametrize("mark", [";", "\t"])
def test_decimal_commas_are_numbers_and_are_said(tmp_path: Path, mark: str) -> None:
    rows = [
        "clip_id,split,video,Joy,mood",
        "1,train,a.mp4,0C5,-1C25",
        "2,train,a.mp4,1,3",
        "3,val,b.mp4,0C125,NA",
    ]
    corpus = read_text_table(tmp_path, "\n".join(rows).replace(",", mark).replace("C", ",") + "\n")
    assert corpus.clips["Joy"].to_pylist() == [0.5, 1.0, 0.125]
    assert corpus.clips["mood"].to_pylist() == [-1.25, 3.0, None]
    assert "Joy is written with decimal commas: '0,5' is read as 0.5." in messages(corpus)


def test_quoted_decimal_commas_in_a_table_of_commas_are_numbers(tmp_path: Path) -> None:
    corpus = read_text_table(tmp_path, 'clip_id,split,video,Joy\n1,train,a.mp4,"0,5"\n2,val,b.mp4,"0,25"\n')
    assert corpus.clips["Joy"].to_pylist() == [0.5, 0.25]


@pytest.mark.parametrize("values", [("1,234", "5,678"), ("0,5", "0.5"), ("1.234,5", "2.000,0")])
def test_commas_that_may_mean_two_things_are_refused(tmp_path: Path, values: tuple[str, str]) -> None:
    text = f"clip_id;split;video;mood\n1;train;a.mp4;{values[0]}\n2;train;a.mp4;{values[1]}\n"
    with pytest.raises(UserError, match=r"mood = '.*' is not a number\. Write numbers with a decimal point"):
        read_text_table(tmp_path, text, labels=["mood"])


def test_commas_that_may_be_thousands_are_no_reason_to_drop_a_label(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="mood = '1,234' is not a number"):
        read_text_table(tmp_path, "clip_id;split;video;mood\n1;train;a.mp4;1,234\n2;train;a.mp4;5,678\n")


@pytest.mark.parametrize("words", [("true", "false"), ("True", "False"), ("TRUE", "FALSE")])
def test_booleans_are_labels_in_csv_as_in_parquet(tmp_path: Path, words: tuple[str, str]) -> None:
    text = "clip_id,split,video,smiles\n1,train,a.mp4,{}\n2,train,a.mp4,{}\n3,val,b.mp4,\n".format(*words)
    corpus = read_text_table(tmp_path, text)
    assert corpus.clips["smiles"].to_pylist() == [1.0, 0.0, None]
    frame = pd.read_csv(tmp_path / "clips.csv", dtype={"clip_id": str, "smiles": "boolean"})
    frame.to_parquet(tmp_path / "other.parquet")
    assert read_corpus("table", str(tmp_path / "other.parquet"), CorpusSettings()).clips.equals(corpus.clips)
    assert corpus.labels == (Label("smiles", 0.0, 1.0),)


@pytest.mark.parametrize(
    ("magic", "message"),
    [
        (b"PK\x03\x04rest", "Excel workbook"),
        (b"\xd0\xcf\x11\xe0rest", "Excel workbook"),
        (b"\x1f\x8b\x08rest", "compressed with gzip. Unpack it"),
        (b"version https://git-lfs.github.com/spec/v1\n", "pointer of a Git LFS file"),
    ],
)
def test_what_is_no_text_table_is_refused_by_name(tmp_path: Path, magic: bytes, message: str) -> None:
    with pytest.raises(UserError, match=r"clips\.csv is not a text table but .*" + message):
        read_text_table(tmp_path, magic)


def test_parquet_is_known_by_its_content_whatever_its_suffix(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"video")
    pd.DataFrame({"clip_id": ["01"], "video": ["a.mp4"]}).to_parquet(tmp_path / "clips.dat")
    assert read_corpus("table", str(tmp_path / "clips.dat"), CorpusSettings()).clips[
        "clip_id"
    ].to_pylist() == ["01"]
