"""The decoded inputs of one clip, and their format between processes."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors.numpy import save

from emi_ray.schema import Need


@dataclass(frozen=True)
class Frames:
    """Whole frames.

    Attributes:
        pixels: (T, H, W, 3) uint8 RGB.
        timestamps_s: (T,) float32, seconds.
    """

    pixels: np.ndarray
    timestamps_s: np.ndarray


@dataclass(frozen=True)
class Faces:
    """Crops of one tracked face.

    Attributes:
        crops: (T, S, S, 3) uint8 RGB.
        boxes: (T, 4) float32 x, y, width, height as shares of the frame's width and height; NaN for existing crops.
        timestamps_s: (T,) float32, seconds.
        detected: (T,) bool, True if the face was found in the frame (by a detector, by its appearance, or because
            the corpus has the crop), False if its box was interpolated from neighbouring frames.
        starts: (T,) bool, True for the first crop of each run, that is the first of all, and each one before which
            there is a cut, a gap, or a jump of the face that was not followed. The difference of two crops of
            different runs is no movement of the face.
    """

    crops: np.ndarray
    boxes: np.ndarray
    timestamps_s: np.ndarray
    detected: np.ndarray
    starts: np.ndarray

    def runs(self) -> list["Faces"]:
        """Return the runs, in order. Their arrays are views."""
        return [Faces(*run) for run in split_runs(self.starts, *vars(self).values())]


def split_runs(starts: np.ndarray, *arrays: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield the parts of arrays with T rows that belong to each run; ``starts`` (T,) is True where a run begins."""
    later = np.flatnonzero(starts[1:]) + 1
    return zip(*(np.split(values, later) for values in arrays), strict=True)


@dataclass(frozen=True)
class Waveform:
    """Mono audio: ``samples`` (N,) float32 in [-1, 1]."""

    samples: np.ndarray
    sample_rate_hz: int

    @property
    def duration_s(self) -> float:
        return len(self.samples) / self.sample_rate_hz


@dataclass(frozen=True)
class DecodedClip:
    """The decoded inputs of one clip.

    An input that is not available is None, with a reason in ``missing`` if the clip lacks it (no audio stream, no
    face in any frame), or in ``failed`` if it could not be read (corrupt file, time limit). Timestamps of video and
    audio start at the beginning of the clip's earliest stream.

    Attributes:
        openface_csv: the text of the file.
        video: path or URI of the video, for an extractor that runs a program on it.
        notes: what happened while decoding: counts (``frames_decoded``, ``frames_without_face``,
            ``packets_corrupt``, ``truncated`` and others), and texts on which stream was chosen and how much was
            read.

    Examples:
        >>> clip = emi_ray.DecodedClip("a", transcript="so happy")
        >>> clip.transcript, clip.waveform
        ('so happy', None)
    """

    clip_id: str
    frames: Frames | None = None
    faces: Faces | None = None
    waveform: Waveform | None = None
    transcript: str | None = None
    openface_csv: str | None = None
    video: str | None = None
    missing: Mapping[Need, str] = field(default_factory=dict)
    failed: Mapping[Need, str] = field(default_factory=dict)
    notes: Mapping[str, int | str] = field(default_factory=dict)

    @property
    def media_duration_s(self) -> float:
        """Length of the longest decoded stream in seconds."""
        stamps = [
            part.timestamps_s[-1] for part in (self.frames, self.faces) if part and len(part.timestamps_s)
        ]
        return max([*map(float, stamps), self.waveform.duration_s if self.waveform else 0.0])


PACKED_COLUMNS = ("frames", "faces", "waveform")
"""Inputs that consist of arrays; each is sent as one safetensors buffer."""

_TEXT_COLUMNS = ("clip_id", "transcript", "openface_csv", "video", "missing", "failed", "notes")

_DTYPES = {"U8": "u1", "BOOL": "?", "I32": "<i4", "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8"}


def pack_clip(clip: DecodedClip) -> dict[str, Any]:
    """Return a flat row of buffers, strings and the media's length, for Arrow and pipes.

    Inverse of :func:`unpack_clip`.
    """
    row: dict[str, Any] = {
        "clip_id": clip.clip_id,
        "transcript": clip.transcript,
        "openface_csv": clip.openface_csv,
        "video": clip.video,
        "missing": json.dumps(dict(clip.missing)),
        "failed": json.dumps(dict(clip.failed)),
        "notes": json.dumps(dict(clip.notes)),
        "media_s": clip.media_duration_s,
    }
    for name in PACKED_COLUMNS:
        part = getattr(clip, name)
        row[name] = (
            None if part is None else save({k: np.ascontiguousarray(v) for k, v in vars(part).items()})
        )
    return row


def table_of(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Build a table from rows of :func:`pack_clip`. Packed inputs are not copied."""
    columns = {name: pa.array([row[name] for row in rows], pa.string()) for name in _TEXT_COLUMNS}
    for name in PACKED_COLUMNS:
        columns[name] = pa.chunked_array([_binary(row[name]) for row in rows], pa.large_binary())
    return pa.table(columns)


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """Return rows for :func:`unpack_clip`. Packed inputs are not copied."""
    packed = [name for name in PACKED_COLUMNS if name in table.column_names]
    rows: list[dict[str, Any]] = table.drop_columns(packed).to_pylist()
    for name in packed:
        for row, value in zip(rows, _buffers(table[name]), strict=True):
            row[name] = value
    return rows


def unpack_clip(row: Mapping[str, Any]) -> DecodedClip:
    """Restore a clip from :func:`pack_clip`. Dropped columns become None. Arrays are views, not copies."""
    frames, faces, waveform = (_arrays(row[name]) if row.get(name) else None for name in PACKED_COLUMNS)
    return DecodedClip(
        clip_id=row["clip_id"],
        frames=Frames(**frames) if frames else None,
        faces=Faces(**faces) if faces else None,
        waveform=Waveform(waveform["samples"], waveform["sample_rate_hz"].item()) if waveform else None,
        transcript=row.get("transcript"),
        openface_csv=row.get("openface_csv"),
        video=row.get("video"),
        missing=json.loads(row["missing"]),
        failed=json.loads(row["failed"]),
        notes=json.loads(row["notes"]),
    )


def _binary(value: bytes | None) -> pa.Array:
    """Return an array with one value, without a copy."""
    if value is None:
        return pa.nulls(1, pa.large_binary())
    # The two offsets of a large_binary array with one value: its start and its end.
    ends = pa.py_buffer(np.array([0, len(value)], np.int64))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, ends, pa.py_buffer(value)])


def _buffers(column: pa.ChunkedArray) -> Iterator[pa.Buffer | None]:
    """Yield the values of a ``large_binary`` column as slices of its memory; ``Scalar.as_buffer`` would copy each."""
    for chunk in column.chunks:
        # Such a chunk may have no data buffer at all.
        if chunk.null_count == len(chunk):
            yield from [None] * len(chunk)
            continue
        _, offsets, data = chunk.buffers()
        # A sliced chunk shares the buffers of the whole array, so its offset is taken into account.
        ends = np.frombuffer(offsets, np.int64)[chunk.offset : chunk.offset + len(chunk) + 1].tolist()
        for there, (start, stop) in zip(chunk.is_valid().to_pylist(), pairwise(ends), strict=True):
            yield data.slice(start, stop - start) if there else None


def _arrays(packed: bytes | pa.Buffer) -> dict[str, np.ndarray]:
    """Return the arrays of a safetensors buffer without a copy; ``safetensors`` itself copies them twice.

    The format: eight bytes with the little-endian length of a JSON header; the header; the arrays at the offsets
    that the header gives.
    """
    data = memoryview(packed)
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(bytes(data[8:start]))
    arrays: dict[str, np.ndarray] = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        values = data[start + first : start + last]
        arrays[name] = np.frombuffer(values, _DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return arrays
