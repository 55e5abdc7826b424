from pathlib import Path

import pytest

from emi_ray.config import CorpusSettings
from emi_ray.corpus.folder import read_media
from emi_ray.corpus.manifest import read_corpus
from emi_ray.errors import UserError


@pytest.fixture
def media(tmp_path: Path) -> Path:
    for name in (
        "one.mp4",
        "two.MPG",
        "two.wav",
        "sub/three.flac",
        "sub/notes.csv",
        ".hidden.mp4",
        "-odd-.mp4",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"media")
    return tmp_path


def test_every_media_file_below_a_folder_is_a_test_clip(media: Path) -> None:
    corpus = read_corpus("table", str(media), CorpusSettings())
    clips = {row["clip_id"]: (row["split"], row["video"], row["audio"]) for row in corpus.clips.to_pylist()}
    assert clips == {
        "one": ("test", str(media / "one.mp4"), None),
        "two.MPG": ("test", str(media / "two.MPG"), None),
        "two.wav": ("test", None, str(media / "two.wav")),
        "three": ("test", None, str(media / "sub/three.flac")),
        "-odd-": ("test", str(media / "-odd-.mp4"), None),
    }
    assert not corpus.warnings


def test_equal_file_names_are_told_apart_by_their_folders(media: Path) -> None:
    (media / "sub/one.mp4").write_bytes(b"media")
    ids = read_media([str(media)]).clips["clip_id"].to_pylist()
    assert "sub/one.mp4" in ids
    assert len(set(ids)) == len(ids) == 6


def test_named_files_and_folders_are_read_together_and_none_twice(media: Path) -> None:
    listing = read_media([str(media / "one.mp4"), str(media / "sub"), str(media / "one.mp4")])
    assert listing.clips["clip_id"].to_pylist() == ["one", "three"]


def test_a_uri_gives_uris(media: Path) -> None:
    (media / "a b.mp4").write_bytes(b"media")
    clips = read_media([f"file://{media}"]).clips.to_pylist()
    assert {row["clip_id"]: row["video"] for row in clips}["a b"] == f"file://{media}/a%20b.mp4"


def test_a_folder_without_media_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.csv").write_text("x")
    with pytest.raises(UserError, match="there is no media file"):
        read_media([str(tmp_path)])


def test_a_file_that_is_no_media_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.docx").write_text("x")
    with pytest.raises(UserError, match=r"notes\.docx: this is not a media file.*Known suffixes: 3gp, aac"):
        read_media([str(tmp_path / "notes.docx")])
    with pytest.raises(UserError, match="there is no such file or folder"):
        read_media([str(tmp_path / "gone.mp4")])
