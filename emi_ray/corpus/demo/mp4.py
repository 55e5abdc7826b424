"""Write frames and audio to an mp4 file with H.264 and AAC."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np

_SOUND_CHUNK = 1024


@dataclass(frozen=True)
class Film:
    """The content of a file.

    Attributes:
        frames: (H, W, 3) uint8 RGB each, all of the same size with even sides.
        samples: (N,) float32 mono audio.
    """

    frames: Sequence[np.ndarray]
    frame_rate_hz: int
    samples: np.ndarray
    sample_rate_hz: int


def write_mp4(film: Film, path: Path) -> None:
    """Write ``film``: the same bytes for the same input. The file appears only when it is complete."""
    part = path.with_name(f".{path.name}.part")
    with av.open(str(part), "w", format="mp4") as container:
        picture = container.add_stream("libx264", rate=film.frame_rate_hz)
        picture.options = {"preset": "ultrafast", "crf": "20", "threads": "1"}
        picture.pix_fmt = "yuv420p"
        picture.height, picture.width = film.frames[0].shape[:2]
        sound = container.add_stream("aac", rate=film.sample_rate_hz, layout="mono")
        sound.bit_rate = 64_000
        sound.options = {"aac_coder": "fast"}
        for frame in film.frames:
            container.mux(picture.encode(_picture(frame)))
        container.mux(picture.encode())
        for start in range(0, len(film.samples), _SOUND_CHUNK):
            container.mux(sound.encode(_sound(film, start)))
        container.mux(sound.encode())
    part.replace(path)


def _picture(frame: np.ndarray) -> av.VideoFrame:
    planes = cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420).astype(np.uint8, copy=False)
    return av.VideoFrame.from_ndarray(planes, format="yuv420p")


def _sound(film: Film, start: int) -> av.AudioFrame:
    samples = film.samples[None, start : start + _SOUND_CHUNK]
    chunk = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
    chunk.sample_rate, chunk.pts = film.sample_rate_hz, start
    return chunk
