"""Files whose names or kinds nobody expects: bytes that are no text, pipes, no home folder."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from emi_ray.config import MediaSettings
from emi_ray.corpus.folder import read_media
from emi_ray.corpus.setup import init_workspace
from emi_ray.errors import UserError
from emi_ray.exchange import import_features
from emi_ray.media.decode import decode_clip
from emi_ray.media.source import ClipSource
from emi_ray.storage import open_uri
from emi_ray.workspace import Workspace

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes, and pipes, are Unix's")

NAME = b"caf\xe9"
"""Latin-1, which is no UTF-8."""


def put(folder: Path, suffix: bytes) -> str:
    path = os.path.join(os.fsencode(folder), NAME + suffix)
    with open(path, "wb") as stream:
        stream.write(b"something")
    return os.fsdecode(path)


def write_table(folder: Path, header: str, row: str) -> str:
    (folder / "clips.csv").write_text(f"{header}\n{row}\n")
    return str(folder / "clips.csv")


def test_a_medium_whose_name_is_no_text_is_left_out_and_said(tmp_path):
    put(tmp_path, b".wav")
    (tmp_path / "a.wav").write_bytes(b"sound")
    listing = read_media([str(tmp_path)])
    assert listing.clips["clip_id"].to_pylist() == ["a"]
    (finding,) = listing.findings
    assert "1 media files are left out" in finding.message
    assert r"caf\xe9.wav" in finding.message


def test_a_name_that_is_no_text_beside_the_media_of_a_table_harms_nothing(tmp_path):
    put(tmp_path, b".wav")
    (tmp_path / "a.wav").write_bytes(b"sound")
    table = write_table(tmp_path, "clip_id,split,audio", "a,test,a.wav")
    corpus = init_workspace(Workspace(str(tmp_path / "work")), "table", table)
    assert not [finding for finding in corpus.findings if "missing" in finding.message]


def test_a_name_that_is_no_text_among_crops_fails_the_clip_with_its_reason(tmp_path):
    put(tmp_path, b".jpg")
    clip = decode_clip(ClipSource("a", faces_dir=str(tmp_path)), MediaSettings(), frozenset({"faces"}))
    assert "not UTF-8 text" in clip.failed["faces"]


def test_a_name_that_is_no_text_among_features_is_refused(tmp_path):
    np.save(put(tmp_path, b".npy"), np.zeros((2, 3), np.float32))
    with pytest.raises(UserError, match=r"caf\\xe9.npy' is not UTF-8 text. Rename"):
        import_features(Workspace(str(tmp_path / "work")), "folder", str(tmp_path), "audio")


def test_a_name_that_is_no_text_as_an_argument_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"caf\\xe9'.*not UTF-8 text"):
        open_uri(os.fsdecode(os.fsencode(tmp_path) + b"/" + NAME))


def test_a_pipe_among_the_media_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.mp4")
    clip = decode_clip(ClipSource("a", video=str(tmp_path / "a.mp4")), MediaSettings(), frozenset({"frames"}))
    assert clip.failed["frames"].startswith("a pipe, socket or device stands where a file is expected")


@pytest.mark.parametrize("piped", ["clips.csv", "a.txt"])
def test_a_pipe_as_a_table_or_transcript_is_refused_and_not_waited_for(tmp_path, piped):
    table = write_table(tmp_path, "clip_id,split,transcript", "a,test,a.txt")
    (tmp_path / piped).unlink(missing_ok=True)
    os.mkfifo(tmp_path / piped)
    with pytest.raises(UserError, match=f"{piped} is a pipe, socket or device. Write its content to a file"):
        init_workspace(Workspace(str(tmp_path / "work")), "table", table)


def test_a_name_with_a_null_byte_costs_its_clip_alone():
    clip = decode_clip(ClipSource("a", video="a\0.mp4"), MediaSettings(), frozenset({"frames", "waveform"}))
    assert set(clip.failed) == {"frames", "waveform"}


def test_a_path_at_home_where_there_is_none_is_refused():
    with pytest.raises(UserError, match="~ cannot be replaced"):
        open_uri("~nobody-of-this-name/clips.csv")
