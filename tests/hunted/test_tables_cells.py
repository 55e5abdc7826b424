"""Odd cells and columns of tables: read as what they mean, or refused in a sentence."""

import json
from pathlib import Path

import pandas as pd
import pytest
from table_files import messages, read_text_table

from emi_ray.config import CorpusSettings
from emi_ray.corpus.manifest import read_corpus
from emi_ray.errors import UserError

HEADER = "clip_id,split,video,transcript,Joy"
ROWS = f"{HEADER}\n1,train,a.mp4,hello,0.5\n2,val,b.mp4,world,0.7\n"


def test_the_mark_within_a_file_that_was_joined_of_two_is_no_part_of_an_id(tmp_path):
    corpus = read_text_table(tmp_path, ROWS.replace("\n2,", "\n\ufeff2,"))
    assert corpus.clips["clip_id"].to_pylist() == ["1", "2"]


def test_empty_columns_behind_the_last_one_are_left_out(tmp_path):
    rows = "\n".join(f"{line},, " for line in ROWS.splitlines())
    corpus = read_text_table(tmp_path, rows.replace("Joy,, ", "Joy,,"))
    assert corpus.clips["Joy"].to_pylist() == [0.5, 0.7]
    assert "ignored" not in messages(corpus)


def test_several_columns_of_values_without_a_name_are_refused(tmp_path):
    rows = "\n".join(
        f"{line},{end}" for line, end in zip(ROWS.splitlines(), (",", "8,9", "8,9"), strict=True)
    )
    with pytest.raises(UserError, match="2 columns have values but no name"):
        read_text_table(tmp_path, rows)


def test_a_value_barely_outside_its_range_is_shown_as_it_is(tmp_path):
    with pytest.raises(UserError, match=r"Joy = 1\.0000001 is outside \[0, 1\]"):
        read_text_table(tmp_path, ROWS.replace("0.5", "1.0000001"))


@pytest.mark.parametrize("values", [[[0.5], [0.7]], pd.to_datetime(["2026-01-01", "2026-01-02"])])
def test_a_label_of_a_type_that_is_no_number_is_refused(tmp_path, values):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(name.encode())
    frame = pd.DataFrame({"clip_id": ["1", "2"], "split": ["train", "val"], "video": ["a.mp4", "b.mp4"]})
    frame["Joy"] = values
    frame.to_parquet(tmp_path / "clips.parquet")
    with pytest.raises(UserError, match=r"Joy = .* is not a number"):
        read_corpus("table", str(tmp_path / "clips.parquet"), CorpusSettings())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"ARROW1\0\0rest", "Arrow or Feather"),
        (json.dumps([{"clip_id": 1}]).encode(), "JSON"),
        (json.dumps({"clip_id": [1]}).encode(), "JSON"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"SQLite format 3\0", "SQLite"),
    ],
)
def test_other_formats_are_refused_by_name(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(UserError, match=says):
        read_text_table(tmp_path, content)


def test_addresses_of_the_web_are_warned_of(tmp_path):
    corpus = read_text_table(tmp_path, ROWS.replace("a.mp4", "https://example.org/a.mp4"))
    assert "web addresses are not read" in messages(corpus)


@pytest.mark.parametrize("word", ["NA", "nan", "None", "<NA>"])
def test_words_that_programs_write_for_nothing_are_warned_of_in_columns_of_text(
    tmp_path: Path, word: str
) -> None:
    rows = f"clip_id,split,group,transcript\n1,train,{word},none of it\n2,val,p,{word}\n"
    found = read_text_table(tmp_path, rows)
    assert found.clips["transcript"].to_pylist() == ["none of it", word]
    said = [finding for finding in found.findings if "are read as text" in finding.message]
    assert [finding.examples for finding in said] == [("2",), ("1",)]
