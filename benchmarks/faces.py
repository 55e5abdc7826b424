"""Decoding with face detection: milliseconds of processor time per clip, and the share of frames with a face.

    python benchmarks/faces.py --clips CLIPS --yunet face_detection_yunet_2023mar.onnx

CLIPS is a folder of talking clips. Each is scaled to 360, 720 and 1080 lines and encoded as H.264. The clips without
a face are the same ones with the pictures cut into squares that are shuffled: they cost about as much to decode.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from emi_ray.config import MediaSettings
from emi_ray.media.decode import decode_clip
from emi_ray.media.source import ClipSource

HEIGHTS = (360, 720, 1080)
SQUARES = (9, 8)
FACES = frozenset({"faces"})
ROUNDS = 3


def shuffled(pixels: np.ndarray) -> np.ndarray:
    """Cut a picture (H, W, 3) into squares and put them together in an order that is the same for all pictures."""
    across, down = SQUARES
    height, width = pixels.shape[0] // down, pixels.shape[1] // across
    parts = [
        pixels[row * height : (row + 1) * height, column * width : (column + 1) * width]
        for row in range(down)
        for column in range(across)
    ]
    order = np.random.default_rng(0).permutation(len(parts))
    rows = [
        np.hstack([parts[order[row * across + column]] for column in range(across)]) for row in range(down)
    ]
    result = pixels.copy()
    result[: down * height, : across * width] = np.vstack(rows)
    return result


def scaled(source: Path, target: Path, height: int, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """Return the pictures of a clip, changed and scaled to a height, as H.264."""
    with av.open(str(source)) as original, av.open(str(target), "w") as film:
        pictures = original.streams.video[0]
        width = round(pictures.width * height / pictures.height / 2) * 2
        video = film.add_stream("libx264", rate=25, options={"preset": "veryfast"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        for frame in original.decode(pictures):
            changed = av.VideoFrame.from_ndarray(change(frame.to_ndarray(format="rgb24")), "rgb24")
            film.mux(video.encode(changed.reformat(width, height, "yuv420p", interpolation="BICUBIC")))
        film.mux(video.encode())
    return target


def cost(clips: list[Path], media: MediaSettings) -> tuple[float, float]:
    """Return the least processor time per clip in milliseconds, and the share of frames with a face."""
    decode_clip(ClipSource("", str(clips[0])), media, FACES)
    best, notes = float("inf"), []
    for _ in range(ROUNDS):
        started = time.process_time()
        notes = [decode_clip(ClipSource("", str(clip)), media, FACES).notes for clip in clips]
        best = min(best, (time.process_time() - started) / len(clips) * 1e3)
    sampled = sum(note.get("frames_sampled", 0) for note in notes)
    return best, sum(note.get("frames_with_face", 0) for note in notes) / sampled


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=Path, required=True, help="folder of talking clips")
    parser.add_argument(
        "--yunet", type=Path, help="file of YuNet's weights; without it Haar alone is measured"
    )
    options = parser.parse_args()
    cv2.setNumThreads(1)
    media = [
        path for path in sorted(options.clips.iterdir()) if path.suffix in (".mpg", ".mp4", ".mov", ".mkv")
    ]
    detectors = {"haar": {"detector": "haar"}}
    if options.yunet:
        detectors["yunet"] = {"detector": "yunet", "yunet_model": str(options.yunet)}
    table = Table(
        "lines", "detector", "ms a clip", "with a face", "ms a clip without one", "÷ with", "found there"
    )
    with tempfile.TemporaryDirectory() as folder:
        for height in HEIGHTS:
            clips = {
                name: [
                    scaled(path, Path(folder) / f"{name}-{path.stem}-{height}.mp4", height, change)
                    for path in media
                ]
                for name, change in (("face", lambda pixels: pixels), ("none", shuffled))
            }
            for name, faces in detectors.items():
                settings = MediaSettings.model_validate({"faces": faces})
                with_face, share = cost(clips["face"], settings)
                without, false_share = cost(clips["none"], settings)
                figures = (f"{with_face:.0f}", f"{share:.3f}", f"{without:.0f}", f"{without / with_face:.2f}")
                table.add_row(str(height), name, *figures, f"{false_share:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
