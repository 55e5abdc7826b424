"""The same content on both sides of a split, and names that only a computer tells apart."""

from pathlib import Path

import pytest
from table_files import messages, read_text_table

HEADER = "clip_id,split,video,Joy\n"


def leaks(corpus) -> list[tuple[str, ...]]:
    return [finding.examples for finding in corpus.warnings if "same content" in finding.message]


def test_one_file_in_train_and_val_is_warned_of(tmp_path: Path) -> None:
    corpus = read_text_table(tmp_path, HEADER + "1,train,a.mp4,0\n2,val,./a.mp4,1\n3,val,b.mp4,0\n")
    assert leaks(corpus) == [("1", "2")]


@pytest.mark.parametrize("size", [10, 300_000])
def test_equal_files_of_different_names_in_two_splits_are_warned_of(tmp_path: Path, size: int) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "x.mp4").write_bytes(content)
    (tmp_path / "y.mp4").write_bytes(content)
    middle = len(content) // 2
    (tmp_path / "z.mp4").write_bytes(content[:middle] + b"?" + content[middle + 1 :])
    corpus = read_text_table(
        tmp_path, HEADER + "1,train,x.mp4,0\n2,test,y.mp4,\n3,val,z.mp4,0\n4,train,a.mp4,1\n"
    )
    assert leaks(corpus) == [("1", "2")]


def test_links_to_one_file_are_one_content(tmp_path: Path) -> None:
    (tmp_path / "c.mp4").symlink_to("a.mp4")
    assert leaks(read_text_table(tmp_path, HEADER + "1,train,a.mp4,0\n2,val,c.mp4,1\n")) == [("1", "2")]


def test_equal_files_in_one_split_and_empty_files_are_no_leak(tmp_path: Path) -> None:
    (tmp_path / "c.mp4").write_bytes((tmp_path / "c.mp4").name.encode())
    (tmp_path / "d.mp4").write_bytes(b"c.mp4")
    (tmp_path / "e.mp4").write_bytes(b"")
    (tmp_path / "f.mp4").write_bytes(b"")
    rows = "1,train,c.mp4,0\n2,train,d.mp4,1\n3,train,e.mp4,0\n4,val,f.mp4,0\n5,val,gone.mp4,1\n"
    assert leaks(read_text_table(tmp_path, HEADER + rows)) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("clip1", "Clip1"),
        ("caf\u00e9", "cafe\u0301"),
        ("a1", "ａ１"),
        ("a1", "a\u200b1"),
        ("STRASSE", "straße"),
    ],
)
def test_ids_that_differ_in_case_or_normal_form_are_warned_of(tmp_path: Path, one: str, other: str) -> None:
    corpus = read_text_table(tmp_path, HEADER + f"{one},train,a.mp4,0\n{other},val,b.mp4,1\n")
    assert f"clip_id: {one!a}, {other!a} differ only in case or in their Unicode form" in messages(corpus)


def test_groups_that_differ_in_case_are_warned_of(tmp_path: Path) -> None:
    text = "clip_id,split,video,group\n1,train,a.mp4,Ann\n2,val,b.mp4,ann\n"
    assert "group: 'Ann', 'ann' differ only in case" in messages(read_text_table(tmp_path, text))


def test_different_ids_are_not_warned_of(tmp_path: Path) -> None:
    assert "differ only" not in messages(
        read_text_table(tmp_path, HEADER + "1,train,a.mp4,0\n01,val,b.mp4,1\n")
    )
