from pathlib import Path

import pandas as pd
import pytest

from emi_ray.config import CorpusSettings
from emi_ray.corpus.manifest import read_corpus
from emi_ray.errors import UserError
from emi_ray.schema import EMOTION_LABELS, Label, clips_schema


def test_a_clip_id_keeps_its_zeros(table) -> None:
    assert table("clip_id,video\n00012,a.mp4\n").clips["clip_id"].to_pylist() == ["00012"]


def test_a_byte_order_mark_is_no_part_of_the_first_column(table) -> None:
    assert table("\ufeffclip_id,video\n1,a.mp4\n".encode()).clips.num_rows == 1


def test_relative_paths_start_at_the_table(table, tmp_path: Path) -> None:
    corpus = table("clip_id,video\n1,a.mp4\n2,./x/../b.mp4\n")
    assert corpus.clips["video"].to_pylist() == [str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4")]
    assert not corpus.warnings


def test_a_transcript_is_the_text_or_what_the_named_file_holds(table) -> None:
    corpus = table(
        'clip_id,transcript\n1,said.txt\n2,"two lines,\nNULL"\n3,\n4,NA\n5,read notes.txt\n6,gone.txt\n'
    )
    assert corpus.clips["transcript"].to_pylist() == [
        "hello there",
        "two lines,\nNULL",
        None,
        "NA",
        "read notes.txt",
        None,
    ]
    assert any("the .txt file does not exist" in f.message and f.examples == ("6",) for f in corpus.warnings)


def test_numeric_columns_are_labels_with_the_range_of_train(table) -> None:
    corpus = table(
        "clip_id,split,video,valence,Joy\n1,train,a.mp4,-3,0.5\n2,train,b.mp4,4,0\n3,val,a.mp4,1,1\n"
    )
    assert corpus.labels == (Label("valence", -3.0, 4.0), Label("Joy", 0.0, 1.0))
    assert corpus.clips["valence"].to_pylist() == [-3.0, 4.0, 1.0]
    assert corpus.clips.schema.equals(clips_schema(corpus.labels), check_metadata=True)


def test_a_declared_range_wins(table) -> None:
    corpus = table(
        "clip_id,split,video,Joy\n1,train,a.mp4,50\n2,val,b.mp4,0\n", label_ranges={"Joy": (0, 100)}
    )
    assert corpus.labels == (Label("Joy", 0.0, 100.0),)


def test_twenty_labels_are_read(table) -> None:
    names = [f"scale {number}" for number in range(20)]
    text = f"clip_id,split,video,{','.join(names)}\n" + "".join(
        f"{row},train,a.mp4,{','.join(str(row + number) for number in range(20))}\n" for row in range(3)
    )
    assert [label.name for label in table(text).labels] == names


def test_a_table_without_split_and_labels_is_all_test(table) -> None:
    corpus = table("clip_id,video\n1,a.mp4\n2,b.mp4\n")
    assert corpus.clips["split"].to_pylist() == ["test", "test"]
    assert not corpus.warnings


def test_an_unknown_column_is_ignored_with_the_nearest_name(table) -> None:
    corpus = table("clip_id,video,vidoe,remark\n1,a.mp4,x,fine\n")
    messages = " ".join(f.message for f in corpus.warnings)
    assert "unknown column 'vidoe' ignored: did you mean 'video'?" in messages
    assert "unknown column 'remark' ignored" in messages


def test_a_row_index_is_no_label(table) -> None:
    corpus = table(",clip_id,split,video\n0,1,train,a.mp4\n1,2,val,b.mp4\n")
    assert corpus.labels == ()


def test_parquet_reads_as_csv_does(table, tmp_path: Path) -> None:
    text = "clip_id,split,video,transcript,Joy\n01,train,a.mp4,hello,0.5\n02,val,b.mp4,,\n"
    corpus = table(text)
    frame = pd.read_csv(tmp_path / "clips.csv", dtype={"clip_id": str, "split": "category"})
    frame.to_parquet(tmp_path / "other.parquet")
    assert read_corpus("table", str(tmp_path / "other.parquet"), CorpusSettings()).clips.equals(corpus.clips)


def test_ids_that_parquet_holds_as_ints_become_text(tmp_path: Path) -> None:
    frame = pd.DataFrame({"clip_id": [1, 2], "transcript": ["a", "b"]})
    frame.to_parquet(tmp_path / "clips.parquet")
    corpus = read_corpus("table", str(tmp_path), CorpusSettings())
    assert corpus.clips["clip_id"].to_pylist() == ["1", "2"]


def test_a_media_column_that_is_no_text_is_refused(tmp_path: Path) -> None:
    pd.DataFrame({"clip_id": ["1"], "video": [[1, 2]]}).to_parquet(tmp_path / "clips.parquet")
    with pytest.raises(UserError, match=r"column 'video' is of type list.*give text"):
        read_corpus("table", str(tmp_path), CorpusSettings())


def test_the_demo_is_the_table_in_its_folder(table, tmp_path: Path) -> None:
    corpus = table("clip_id,split,video,Joy\n1,train,a.mp4,0.5\n2,val,b.mp4,0\n")
    assert read_corpus("demo", str(tmp_path), CorpusSettings()).clips.equals(corpus.clips)
    assert corpus.labels == EMOTION_LABELS[5:]


def test_a_folder_without_the_demo_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no demo corpus: clips\.csv does not exist"):
        read_corpus("demo", str(tmp_path), CorpusSettings())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read as CSV"),
        ("clip_id,video\n1\n", "cannot be read as CSV.*Expected 2 columns"),
        ("clip_id,video,video\n1,a.mp4,b.mp4\n", "column 'video' occurs twice"),
        ("clipid,video\n1,a.mp4\n", "no column 'clip_id' among clipid, video. Is it 'clipid'"),
        ("clip_id,film\n1,a.mp4\n", "no media column among clip_id, film. Give at least one of video, audio"),
        ("clip_id,video,Joy\n1,a.mp4,0.5\n", r"no column 'split', but labels \(Joy\)"),
        ("clip_id,video\n", "it has no clips"),
        ("clip_id,transcript,Joy,split\n", "it has no clips"),
    ],
)
def test_a_table_that_cannot_work_is_refused(table, text: str, message: str) -> None:
    with pytest.raises(UserError, match=r"clips\.csv.*" + message):
        table(text)


def test_a_table_that_is_not_utf8_is_refused(table) -> None:
    with pytest.raises(UserError, match="is not UTF-8 .line 2"):
        table("clip_id,transcript\n1,caf\xe9\n".encode("latin-1"))


def test_a_source_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such file or folder"):
        read_corpus("table", str(tmp_path / "nowhere.csv"), CorpusSettings())
