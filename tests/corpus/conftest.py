"""A miniature of Hume-Vidmimic2 with its oddities, rendered into a temporary folder."""

from collections.abc import Callable
from pathlib import Path

import pytest

from emi_ray.config import CorpusSettings
from emi_ray.corpus.manifest import Corpus, read_corpus

HEADER = "Filename,Admiration,Amusement,Determination,Empathic Pain,Excitement,Joy"
TINY_JPEG = bytes.fromhex("ffd8ffe000104a46494600010100000100010000ffd9")

TRAIN = {"00000": "0.25,0,0,0,0.5,0", "00001": "0,1,0,0.125,0,0", "00002": "0,0,0.75,0,0,0.5"}
VAL = {"08072": "0.5,0,0,0,0,0", "08073": "0,0.2,0,0.4,0,0.6"}
TEST = ("12660", "12661")


@pytest.fixture
def vidmimic2(tmp_path: Path) -> Path:
    """Train ids padded, val ids as ints in ``val_split.csv``, test clips only in the media folders."""
    root = tmp_path / "hume"
    for folder in ("raw", "audio", "text", "openface"):
        (root / folder).mkdir(parents=True)
    rows = [f"{clip_id},{labels}" for clip_id, labels in TRAIN.items()]
    (root / "train_split.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    rows = [f"{int(clip_id)},{labels}" for clip_id, labels in VAL.items()]
    (root / "val_split.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    for clip_id in (*TRAIN, *VAL, *TEST):
        (root / f"raw/{clip_id}.mp4").write_bytes(b"video")
        (root / f"audio/{clip_id}.mp3").write_bytes(b"sound")
        (root / f"text/{clip_id}.txt").write_text(f" What {clip_id} says.\n")
        crops = root / f"face_images/{clip_id}"
        crops.mkdir(parents=True)
        for number in range(1, 13):
            (crops / f"{number}.jpg").write_bytes(TINY_JPEG)
        (crops / "Thumbs.db").write_bytes(b"no picture")
    (root / "face_images/Thumbs.db").write_bytes(b"no folder")
    (root / "raw/Thumbs.db").write_bytes(b"no video")
    (root / "text/00001.txt").write_text("")
    (root / "text/08073.txt").unlink()
    (root / "audio/00002.mp3").unlink()
    (root / "openface/00000.csv").write_text("frame, timestamp, confidence\n")
    return root


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Corpus]:
    """Reads CSV text as a table corpus; ``a.mp4``, ``b.mp4`` and ``said.txt`` lie beside it."""

    def read(text: str | bytes, **settings: object) -> Corpus:
        for name in ("a.mp4", "b.mp4"):
            (tmp_path / name).write_bytes(b"video")
        (tmp_path / "said.txt").write_text("hello there\n")
        path = tmp_path / "clips.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_corpus("table", str(path), CorpusSettings.model_validate(settings))

    return read
