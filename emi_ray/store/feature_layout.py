"""Layout of features in Arrow tables, conversion from older layouts and raw parts, and hashes."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from emi_ray.schema import FEATURE_COLUMNS, UNKNOWN, Origin, features_schema
from emi_ray.store.feature_precision import Precision

_DTYPE = b"emi_ray.dtype"
"""Key in the metadata of raw parts, for the type of the features that they store as bytes."""


@dataclass(frozen=True)
class ClipFeatures:
    """One row of a store: ``values`` (T, D), ``timestamps_s`` (T,), ``extras`` name → (T,)."""

    clip_id: str
    values: np.ndarray
    timestamps_s: np.ndarray
    extras: Mapping[str, np.ndarray]
    origin: Origin = UNKNOWN


def precision_of(schema: pa.Schema) -> Precision:
    """Return the type of the features in a part."""
    if (of_bytes := (schema.metadata or {}).get(_DTYPE)) is not None:
        return "float32" if of_bytes == b"float32" else "float16"
    values = schema.field("features").type
    while pa.types.is_nested(values):
        values = values.value_type
    return "float32" if pa.types.is_float32(values) else "float16"


def features_table(rows: Sequence[ClipFeatures], dtype: np.dtype, metadata: Mapping[str, str]) -> pa.Table:
    extras = sorted(rows[0].extras)
    schema = features_schema(
        pa.from_numpy_dtype(dtype), extras, {**metadata, "emi_ray.feature_dim": str(rows[0].values.shape[1])}
    )
    steps = [np.ascontiguousarray(row.values, dtype=dtype) for row in rows]
    lengths = np.array([len(part) for part in steps])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    per_step = {name: [row.extras[name].astype(np.float32) for row in rows] for name in extras}
    stamps = [row.timestamps_s.astype(np.float32) for row in rows]
    digests = [
        content_digest(part, stamps[i], {name: per_step[name][i] for name in extras})
        for i, part in enumerate(steps)
    ]

    def lists(parts: Sequence[np.ndarray]) -> pa.Array:
        return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(np.concatenate(parts)))

    numbers = pa.array(np.concatenate(steps).reshape(-1))
    columns = [
        pa.array([row.clip_id for row in rows]),
        pa.array(lengths.astype(np.int32)),
        pa.LargeListArray.from_arrays(
            pa.array(offsets * rows[0].values.shape[1]), numbers, type=schema.field("features").type
        ),
        lists(stamps),
        pa.array([row.origin.source for row in rows]),
        pa.array([row.origin.stamp for row in rows]),
        pa.array(digests),
        *(lists(per_step[name]) for name in extras),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def steps_of(table: pa.Table) -> np.ndarray:
    """Return the steps of all clips of a store's table, concatenated: (sum of num_steps, D)."""
    values: np.ndarray = joined(table["features"]).flatten().to_numpy()
    num_steps = int(table["num_steps"].to_numpy().sum())
    return values.reshape(num_steps, -1) if num_steps else values.reshape(0, 0)


def joined(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array. ``combine_chunks`` copies even a single chunk."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def content_digest(values: np.ndarray, timestamps_s: np.ndarray, extras: Mapping[str, np.ndarray]) -> str:
    """Return 16 hexadecimal digits of a hash of one clip's features as they are stored."""
    # Type and shape are hashed too, because equal bytes may mean other numbers.
    digest = hashlib.blake2b(f"{values.dtype} {values.shape}".encode(), digest_size=8)
    for name, part in [("", values), ("timestamps_s", timestamps_s), *sorted(extras.items())]:
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


def modern(table: pa.Table, columns: Sequence[str] | None, dtype: pa.DataType) -> pa.Table:
    """Convert a table of any layout to the present one, with features of ``dtype``.

    Raw parts contain bytes. Until 2026-11 features were lists of fixed-size lists, and rows recorded neither their
    inputs nor a digest.

    Args:
        columns: the wanted columns; None: all.
    """
    if "features" not in table.column_names:
        return table
    if pa.types.is_large_binary(table.schema.field("features").type):
        table = _as_lists(table, dtype)
    elif pa.types.is_fixed_size_list(table.schema.field("features").type.value_type):
        table = _flattened(table)
    if table.schema.field("features").type.value_type != dtype:
        kind = features_schema(dtype, (), {}).field("features").type
        table = _with_features(table, table["features"].cast(kind))
    wanted = FEATURE_COLUMNS if columns is None else columns
    for name in ("source", "source_stamp"):
        if name in wanted and name not in table.column_names:
            nothing = pa.array([""] * table.num_rows, pa.string())
            table = table.append_column(pa.field(name, pa.string(), False), nothing)
    if "digest" in wanted and "digest" not in table.column_names:
        digests = pa.array(_digests_of(table), pa.string())
        table = table.append_column(pa.field("digest", pa.string(), False), digests)
    extras = [name for name in table.column_names if name not in FEATURE_COLUMNS]
    return table.select([name for name in (*FEATURE_COLUMNS, *extras) if name in table.column_names])


def as_bytes(table: pa.Table) -> pa.Table:
    """Convert features to one binary value per clip, without a copy."""
    lists = joined(table["features"])
    # Bytes per number: list offsets count numbers, binary offsets count bytes.
    width = lists.type.value_type.bit_width // 8
    ends = pa.py_buffer(lists.offsets.to_numpy() * width)
    values = pa.Array.from_buffers(pa.large_binary(), len(lists), [None, ends, lists.values.buffers()[1]])
    # The type is stored with the bytes, because a reader may have read the description before it named one.
    name = np.dtype(lists.type.value_type.to_pandas_dtype()).name
    metadata = {**(table.schema.metadata or {}), _DTYPE: name.encode()}
    return _with_features(table, values).replace_schema_metadata(metadata)


def _as_lists(table: pa.Table, dtype: pa.DataType) -> pa.Table:
    """Inverse of :func:`as_bytes`. ``dtype`` is the type of features whose part does not name one."""
    metadata = dict(table.schema.metadata or {})
    if name := metadata.pop(_DTYPE, b""):
        dtype = pa.from_numpy_dtype(np.dtype(name.decode()))
    values = joined(table["features"])
    _, ends, data = values.buffers()
    width = dtype.bit_width // 8
    # The buffers are those of the whole array, so a slice needs its offset.
    offsets = np.frombuffer(ends, np.int64)[values.offset : values.offset + len(values) + 1] // width
    numbers = pa.Array.from_buffers(dtype, data.size // width, [None, data])
    kind = pa.large_list(pa.field("item", dtype, False))
    lists = pa.LargeListArray.from_arrays(pa.array(offsets), numbers, type=kind)
    return _with_features(table, lists).replace_schema_metadata(metadata)


def _flattened(table: pa.Table) -> pa.Table:
    """Convert features to one list of numbers per clip, without a copy."""
    lists = joined(table["features"])
    dim, numbers = lists.values.type.list_size, lists.values.values
    kind = pa.large_list(pa.field("item", numbers.type, False))
    # The inner offset is added, because values.values ignores that the inner array may be a slice.
    offsets = pa.array(lists.offsets.to_numpy().astype(np.int64) * dim + lists.values.offset * dim)
    flat = pa.LargeListArray.from_arrays(offsets, numbers, type=kind)
    return _with_features(table, flat)


def _with_features(table: pa.Table, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    return table.set_column(
        table.column_names.index("features"), pa.field("features", values.type, False), values
    )


def _digests_of(table: pa.Table) -> list[str]:
    extras = [name for name in table.column_names if name not in FEATURE_COLUMNS]
    found = []
    for index in range(table.num_rows):
        row = table.slice(index, 1)
        per_step = {
            name: row[name].combine_chunks().flatten().to_numpy() for name in ("timestamps_s", *extras)
        }
        found.append(content_digest(steps_of(row), per_step.pop("timestamps_s"), per_step))
    return found
