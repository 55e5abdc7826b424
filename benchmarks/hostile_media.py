"""Check that damaged and hostile media end as features or with a named reason, in bounded memory and time.

    python benchmarks/hostile_media.py --clips FOLDER --num 1000

The media files in FOLDER are mutated (bits, truncations, headers, blocks that are zeroed, doubled or moved) and
decoded with faces and sound in the process that the pipeline decodes in; a few bombs follow. What is printed: how
many gave something, the reasons of the others, the peak memory of the decoding processes, and the longest time that
one file took. A file whose outcome has neither content nor a reason ends the run with exit code 1.
"""

import argparse
import random
import re
import struct
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
import psutil

from emi_ray.config import MediaSettings
from emi_ray.media.clip import unpack_clip
from emi_ray.media.isolation import DecodeProcess
from emi_ray.media.source import ClipSource
from emi_ray.schema import Need

NEEDS: frozenset[Need] = frozenset({"faces", "waveform"})


def flip_bits(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 10, 100, 1000))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def truncate(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(1, len(data)) :]


def damage_header(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 4, 16))):
        data[rng.randrange(min(512, len(data)))] = rng.randrange(256)


def damage_block(data: bytearray, rng: random.Random) -> None:
    """Zero a block, write it twice, fill it with noise or with the greatest value."""
    start, length = rng.randrange(len(data)), rng.choice((16, 512, 20_000))
    block = data[start : start + length]
    data[start : start + length] = rng.choice(
        (bytes(len(block)), bytes(block) * 2, rng.randbytes(len(block)), b"\xff" * len(block))
    )


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    flip_bits,
    truncate,
    damage_header,
    damage_block,
)


def mutants(files: list[Path], num: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of ``num`` mutated files."""
    rng = random.Random(seed)
    for index in range(num):
        source = files[index % len(files)]
        mutate = MUTATIONS[index // len(files) % len(MUTATIONS)]
        data = bytearray(source.read_bytes())
        mutate(data, rng)
        yield f"{mutate.__name__} {index}{source.suffix}", bytes(data)


def bombs(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of small files that declare very large contents."""
    for side in (15_000, 60_000):
        yield f"PNG of {side} x {side}", _png(side)
    film = _film(folder / "film.mp4")
    yield (
        "MP4 that declares 60,000 x 60,000",
        _declaring(film, b"avc1", 24, struct.pack(">HH", 60_000, 60_000)),
    )
    yield "MP4 that declares a million tracks", _many_tracks(film, 1_000_000 // 100)
    yield (
        "MP4 that declares 2^31 samples",
        _declaring(film, b"stsz", 0, struct.pack(">III", 0, 100, 2**31 - 1)),
    )
    yield "MP4 that declares 100 hours", _declaring(film, b"mvhd", 16, struct.pack(">I", 360_000_000))
    yield "100 hours of silence", _long_silence(folder / "silence.flac")
    yield "sound with a pause of 100 hours", _with_pause(folder / "pause.mka")


def _png(side: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    row = bytes(1 + (side + 7) // 8)
    rows = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _film(path: Path) -> bytes:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for index in range(25):
            pixels = np.full((64, 96, 3), 5 * index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path.read_bytes()


def _declaring(data: bytes, box: bytes, offset: int, value: bytes) -> bytes:
    """The file with other bytes at a place behind the name of a box."""
    start = data.index(box) + 4 + offset
    return data[:start] + value + data[start + len(value) :]


def _many_tracks(data: bytes, num: int) -> bytes:
    """Return the film with its track repeated ``num`` times in its header."""
    start = data.index(b"moov") - 4
    (size,) = struct.unpack(">I", data[start : start + 4])
    track = data.index(b"trak", start) - 4
    (track_size,) = struct.unpack(">I", data[track : track + 4])
    header = data[start + 8 : track] + data[track : track + track_size] * num
    return data[:start] + struct.pack(">I", 8 + len(header)) + b"moov" + header + data[start + size :]


def _long_silence(path: Path) -> bytes:
    """Return 100 hours of silence at 1 kHz; FLAC needs about ten bytes per second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac", rate=1000, layout="mono", options={"compression_level": "0"})
        silence = np.zeros((1, 60_000), np.int16)
        for minute in range(100 * 60):
            frame = av.AudioFrame.from_ndarray(silence, format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 1000, 60_000 * minute, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path.read_bytes()


def _with_pause(path: Path) -> bytes:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        for second in (0, 1, 360_000, 360_001):
            frame = av.AudioFrame.from_ndarray(np.ones((1, 16000), np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 16000, 16000 * second, Fraction(1, 16000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path.read_bytes()


class PeakMemory:
    """The greatest resident memory of any child process, read every 20 ms."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            for child in psutil.Process().children(recursive=True):
                try:
                    self.num_bytes = max(self.num_bytes, child.memory_info().rss)
                except psutil.NoSuchProcess:
                    continue


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=Path, required=True, help="folder of media files to mutate")
    parser.add_argument("--num", type=int, default=1000, help="mutated files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--time-limit", type=float, default=60.0, help="seconds an attempt")
    parsed = parser.parse_args()
    files = sorted(
        path for path in parsed.clips.iterdir() if path.suffix in (".mpg", ".mp4", ".mkv", ".webm", ".mov")
    )
    endings: Counter[str] = Counter()
    unnamed, slowest, num_given = [], (0.0, ""), 0
    with (
        tempfile.TemporaryDirectory() as folder,
        PeakMemory() as memory,
        DecodeProcess(MediaSettings(), parsed.time_limit) as process,
    ):
        inputs = list(bombs(Path(folder)))
        for name, data in chain(mutants(files, parsed.num, parsed.seed), inputs):
            path = Path(folder) / f"clip{Path(name).suffix if Path(name).suffix in ('.mpg', '.mp4') else ''}"
            path.write_bytes(data)
            started = time.perf_counter()
            clip = unpack_clip(process.decode(ClipSource("clip", video=str(path)), NEEDS))
            seconds = time.perf_counter() - started
            slowest = max(slowest, (seconds, name))
            reasons = {**clip.missing, **clip.failed}
            num_given += clip.faces is not None or clip.waveform is not None
            unnamed += [name for need in NEEDS if getattr(clip, need) is None and not reasons.get(need)]
            endings.update(re.sub(r"\d[\d.,]*", "N", f"{need}: {why}") for need, why in reasons.items())
            if (name, data) in inputs:
                print(
                    f"{name}, {len(data):,} bytes: {seconds:.1f} s, {reasons or 'decoded'}, {dict(clip.notes)}"
                )
    for reason, count in endings.most_common():
        print(f"{count:6}  {reason}")
    print(
        f"{parsed.num + len(inputs)} files; {num_given} gave a face or sound; without content or reason: {unnamed}"
    )
    print(
        f"peak of a decoding process {memory.num_bytes / 1e9:.2f} GB; longest {slowest[0]:.1f} s ({slowest[1]})"
    )
    sys.exit(1 if unnamed else 0)


if __name__ == "__main__":
    main()
