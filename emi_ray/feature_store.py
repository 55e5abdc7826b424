"""Features on disk: the only bridge between extraction and training.

One store is one folder, ``features/<modality>/<fingerprint>/``, of Parquet parts (``parts.py``) plus
``_extractor.json``, which says what the fingerprint is a hash of. Each row says what it was made of
(:class:`~emi_ray.schema.Origin`) and holds a hash of its features, so that whatever is made of them can tell whether
they are still the same. A part is named by the clips in it and by what they were made of, so a task that is run again
after a crash replaces its own part instead of adding a second; should a clip nevertheless stand in two parts, readers
take the first.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from emi_ray.errors import UserError
from emi_ray.parts import PART, RAW, PartFolder
from emi_ray.precision import Precision
from emi_ray.schema import FEATURE_COLUMNS, UNKNOWN, Modality, Origin, features_schema
from emi_ray.workspace import Workspace

RECORD = pa.schema(
    [
        pa.field("clip_id", pa.string(), False),
        pa.field("num_steps", pa.int32(), False),
        pa.field("source", pa.string(), False),
        pa.field("source_stamp", pa.string(), False),
        pa.field("digest", pa.string(), False),
    ]
)
"""What is known of all clips of a store without their features."""


@dataclass(frozen=True)
class ClipFeatures:
    """One row of a store: ``values`` (T, D), ``timestamps_s`` (T,), ``extras`` name → (T,)."""

    clip_id: str
    values: np.ndarray
    timestamps_s: np.ndarray
    extras: Mapping[str, np.ndarray]
    origin: Origin = UNKNOWN


@dataclass(frozen=True)
class FeatureStore:
    """Reads and writes the features of one extractor in one workspace."""

    workspace: Workspace
    modality: Modality
    fingerprint: str

    @property
    def folder(self) -> str:
        return f"features/{self.modality}/{self.fingerprint}"

    @property
    def held(self) -> PartFolder:
        """The parts, and the record of what they hold."""
        return PartFolder(self.workspace, self.folder, RECORD, self._modern)

    def is_described(self) -> bool:
        """Whether ``_extractor.json`` is there; a run that was killed at its very start leaves a bare folder."""
        try:
            return bool(self._description)
        except FileNotFoundError:
            return False

    def create(self, identity: Mapping[str, Any], feature_dim: int) -> None:
        """Write ``_extractor.json`` unless it is there."""
        if not self.is_described():
            description = {**identity, "feature_dim": feature_dim, "fingerprint": self.fingerprint}
            self.workspace.write_json(f"{self.folder}/_extractor.json", description)

    def settle_precision(self, precision: Precision, reason: str = "") -> None:
        """Say in which precision features are kept, and why, unless that is said already. It stays for ever: the rows
        of a store are alike."""
        if "dtype" in self._description:
            return
        del self.__dict__["_description"]  # another process may have said it since
        if "dtype" not in self._description:
            settled = {**self._description, "dtype": precision, "dtype_reason": reason}
            self.workspace.write_json(f"{self.folder}/_extractor.json", settled)
            self.__dict__["_description"] = settled

    def describe(self) -> dict[str, Any]:
        """The extractor's identity, ``feature_dim``, ``fingerprint``, and once it is settled ``dtype``."""
        return dict(self._description)

    @cached_property
    def _description(self) -> dict[str, Any]:
        description: dict[str, Any] = self.workspace.read_json(f"{self.folder}/_extractor.json")
        return description

    @property
    def feature_dim(self) -> int:
        return int(self._description["feature_dim"])

    @property
    def dtype(self) -> np.dtype:
        """In which features are kept: float16, unless the store says otherwise."""
        try:
            return np.dtype(self._description.get("dtype", "float16"))
        except FileNotFoundError:
            return np.dtype("float16")

    def write(self, rows: Sequence[ClipFeatures], raw: bool = False) -> str | None:
        """Write one part with all of ``rows``, which all have the same D and the same extras; returns its path.

        Args:
            raw: features as one value of bytes a clip, which costs a tenth of the time. Merging makes lists of them.
        """
        if not rows:
            return None
        table = _features_table(rows, self.dtype, {"emi_ray.fingerprint": self.fingerprint})
        names = (f"{row.clip_id} {row.origin.source}".rstrip() for row in rows)
        return self.held.write(_as_bytes(table) if raw else table, names, RAW if raw else PART)

    def parts(self) -> list[str]:
        """Relative paths of the Parquet files, sorted."""
        return self.held.paths()

    def clip_ids(self) -> set[str]:
        """Ids of all clips that have features."""
        return set(self.held.record()["clip_id"].to_pylist())

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The rows in tables of bounded size, each clip once."""
        return self.held.tables(columns)

    def rows(self) -> Iterator[ClipFeatures]:
        """Clip by clip, for small jobs and tests; training reads :meth:`tables`."""
        for table in self.tables():
            extras = [name for name in table.column_names if name not in FEATURE_COLUMNS]
            for index in range(table.num_rows):
                row = table.slice(index, 1)
                yield ClipFeatures(
                    row["clip_id"][0].as_py(),
                    steps_of(row),
                    row["timestamps_s"].combine_chunks().flatten().to_numpy(),
                    {name: row[name].combine_chunks().flatten().to_numpy() for name in extras},
                    Origin(row["source"][0].as_py(), row["source_stamp"][0].as_py()),
                )

    def _modern(self, table: pa.Table, columns: Sequence[str] | None) -> pa.Table:
        """A table of any layout in the present one: raw parts hold bytes; until 2026-11 features were lists of
        fixed-size lists, and rows said neither what they were made of nor what they hold."""
        if "features" not in table.column_names:
            return table
        dtype = pa.from_numpy_dtype(self.dtype)
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


def steps_of(table: pa.Table) -> np.ndarray:
    """All steps of all clips of a store's table, one below the other: (sum of num_steps, D)."""
    values: np.ndarray = table["features"].combine_chunks().flatten().to_numpy()
    num_steps = int(table["num_steps"].to_numpy().sum())
    return values.reshape(num_steps, -1) if num_steps else values.reshape(0, 0)


def content_digest(values: np.ndarray, timestamps_s: np.ndarray, extras: Mapping[str, np.ndarray]) -> str:
    """Sixteen hexadecimal digits of a hash of one clip's features as they are stored."""
    digest = hashlib.blake2b(f"{values.dtype} {values.shape}".encode(), digest_size=8)
    for name, part in [("", values), ("timestamps_s", timestamps_s), *sorted(extras.items())]:
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


def _flattened(table: pa.Table) -> pa.Table:
    """Features as one list of numbers a clip, without copying these."""
    lists = table["features"].combine_chunks()
    dim, numbers = lists.values.type.list_size, lists.values.values
    kind = pa.large_list(pa.field("item", numbers.type, False))
    offsets = pa.array(lists.offsets.to_numpy().astype(np.int64) * dim + lists.values.offset * dim)
    flat = pa.LargeListArray.from_arrays(offsets, numbers, type=kind)
    return _with_features(table, flat)


def _as_bytes(table: pa.Table) -> pa.Table:
    """Features as one value of bytes a clip, without copying them."""
    lists = table["features"].combine_chunks()
    width = lists.type.value_type.bit_width // 8
    ends = pa.py_buffer(lists.offsets.to_numpy() * width)
    values = pa.Array.from_buffers(pa.large_binary(), len(lists), [None, ends, lists.values.buffers()[1]])
    return _with_features(table, values)


def _as_lists(table: pa.Table, dtype: pa.DataType) -> pa.Table:
    """Inverse of :func:`_as_bytes`."""
    values = table["features"].combine_chunks()
    _, ends, data = values.buffers()
    width = dtype.bit_width // 8
    offsets = np.frombuffer(ends, np.int64)[values.offset : values.offset + len(values) + 1] // width
    numbers = pa.Array.from_buffers(dtype, data.size // width, [None, data])
    kind = pa.large_list(pa.field("item", dtype, False))
    return _with_features(table, pa.LargeListArray.from_arrays(pa.array(offsets), numbers, type=kind))


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


def stores_of(workspace: Workspace, modality: Modality) -> list[FeatureStore]:
    """All stores of a modality in a workspace."""
    names = workspace.folders(f"features/{modality}")
    stores = [FeatureStore(workspace, modality, name) for name in names]
    return [store for store in stores if store.is_described()]


def find_store(
    workspace: Workspace,
    modality: Modality,
    *,
    extractor: str | None = None,
    fingerprint: str | None = None,
    held: Sequence[FeatureStore] | None = None,
) -> FeatureStore:
    """The one store of a modality that fits; narrowed by extractor name or fingerprint where given.

    Args:
        held: all stores of the modality, where they are known.

    Raises:
        UserError: there is none, or several fit; the message lists what there is.
    """
    held = [store for store in held or stores_of(workspace, modality) if store.parts()]
    names = {store.fingerprint: store.describe()["extractor"] for store in held}
    fitting = [
        store
        for store in held
        if extractor in (None, names[store.fingerprint]) and fingerprint in (None, store.fingerprint)
    ]
    if len(fitting) == 1:
        return fitting[0]
    wanted = f" of '{extractor or fingerprint}'" if extractor or fingerprint else ""
    listing = ", ".join(f"{name} ({key})" for key, name in names.items()) or "none"
    problem = "several sets of" if fitting else "no"
    raise UserError(
        f"{workspace.root} holds {problem} {modality} features{wanted}; there are: {listing}. "
        + (
            f"Choose one: encoders.{modality}.features=FINGERPRINT."
            if fitting
            else f"Make them: emi-ray extract -w {workspace.quoted} --modalities {modality}."
        )
    )


def _features_table(rows: Sequence[ClipFeatures], dtype: np.dtype, metadata: Mapping[str, str]) -> pa.Table:
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
