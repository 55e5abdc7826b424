"""Identify the columns of a feature table that give the time of a row, and convert them to numbers."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

SEQUENCE_NAMES = (
    *(
        "timestamp",
        "timestamp_s",
        "timestamps_s",
        "timestamp_ms",
        "time",
        "time_s",
        "time_ms",
        "seconds",
        "t",
    ),
    *("frame", "frame_id", "frame_idx", "frame_index", "frame_number", "frame_no", "frame_num", "frames"),
    *("step", "step_id", "step_idx", "step_index", "position", "segment", "window", "index"),
    *(
        "start",
        "start_s",
        "start_ms",
        "start_time",
        "begin",
        "onset",
        "end",
        "end_s",
        "end_ms",
        "end_time",
        "offset",
    ),
)
"""Names of columns that give the time of a row, in any case. The first one that exists determines the order."""

_LAST_NUMBER = r"(?P<number>\d+(?:\.\d+)?)\D*$"
"""The last number in a text such as ``frame_0012.jpg``."""


def as_numbers(column: pa.Array) -> np.ndarray:
    """Convert a column to (N,) float64, NaN where null. Temporal types become integers, texts their last number."""
    kind = column.type
    if is_text(kind):
        column = pc.struct_field(pc.extract_regex(column, _LAST_NUMBER), "number")
    elif pa.types.is_temporal(kind):
        column = column.cast(pa.int64() if kind.bit_width == 64 else pa.int32())
    values: np.ndarray = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return values


def counts(name: str) -> bool:
    """Return whether a column gives the time of a row, or numbers the rows of the file."""
    return name.strip().lower() in SEQUENCE_NAMES or name.startswith(("Unnamed: ", "__index_level_"))


def is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def tells_when(kind: pa.DataType) -> bool:
    return is_number(kind) or is_text(kind) or bool(pa.types.is_temporal(kind))


def is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
