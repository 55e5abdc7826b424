"""Features on disk: the only bridge between extraction and training.

One store is one folder, ``features/<modality>/<fingerprint>/``, of Parquet parts that appear atomically plus
``_extractor.json``, which says what the fingerprint is a hash of. What is done is what the parts hold: there is
no other record to fall out of step. A part is named by the clips in it, so a task that is run again after a
crash replaces its own part instead of adding a second; should a clip nevertheless stand in two parts, readers
take the first. Failures are appended to ``failures/<modality>/<fingerprint>/`` and are void once the clip has
features.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from emi_ray.errors import UserError
from emi_ray.schema import FAILURES_SCHEMA, MODALITIES, Modality, features_schema
from emi_ray.workspace import Workspace

_PARTS_AHEAD = 3


@dataclass(frozen=True)
class ClipFeatures:
    """One row of a store: ``values`` (T, D), ``timestamps_s`` (T,), ``extras`` name → (T,)."""

    clip_id: str
    values: np.ndarray
    timestamps_s: np.ndarray
    extras: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class FeatureStore:
    """Reads and writes the features of one extractor in one workspace."""

    workspace: Workspace
    modality: Modality
    fingerprint: str

    @property
    def folder(self) -> str:
        return f"features/{self.modality}/{self.fingerprint}"

    def is_described(self) -> bool:
        """Whether ``_extractor.json`` is there; a run that was killed at its very start leaves a bare folder."""
        return self.workspace.exists(f"{self.folder}/_extractor.json")

    def create(self, identity: Mapping[str, Any], feature_dim: int) -> None:
        """Write ``_extractor.json`` unless it is there."""
        if not self.is_described():
            description = {**identity, "feature_dim": feature_dim, "fingerprint": self.fingerprint}
            self.workspace.write_json(f"{self.folder}/_extractor.json", description)

    def describe(self) -> dict[str, Any]:
        """What ``create`` wrote: the extractor's identity, ``feature_dim`` and ``fingerprint``."""
        description: dict[str, Any] = self.workspace.read_json(f"{self.folder}/_extractor.json")
        return description

    @property
    def feature_dim(self) -> int:
        return int(self.describe()["feature_dim"])

    def write(self, rows: Sequence[ClipFeatures]) -> None:
        """Write one part with all of ``rows``, which all have the same D and the same extras."""
        if not rows:
            return
        table = _features_table(rows, {"emi_ray.fingerprint": self.fingerprint})
        name = f"part-{_digest(row.clip_id for row in rows)}.parquet"
        self.workspace.write_table(f"{self.folder}/{name}", table)

    def parts(self) -> list[str]:
        """Relative paths of the Parquet files, sorted."""
        return [path for path in self.workspace.files(self.folder) if path.endswith(".parquet")]

    def clip_ids(self) -> set[str]:
        """Ids of all clips that have features."""
        return {
            clip_id
            for part in self.parts()
            for clip_id in self.workspace.read_table(part, ["clip_id"])["clip_id"].to_pylist()
        }

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The parts, one Arrow table each, each clip once. Columns: clip_id, num_steps, features, …"""
        seen: set[str] = set()
        for table in _ahead(lambda part: self.workspace.read_table(part, columns), self.parts()):
            ids = table["clip_id"].to_pylist()
            fresh = [clip_id not in seen for clip_id in ids]
            seen.update(ids)
            yield table if all(fresh) else table.filter(pa.array(fresh))

    def rows(self) -> Iterator[ClipFeatures]:
        """Clip by clip, for small jobs and tests; training reads :meth:`tables`."""
        for table in self.tables():
            extras = table.column_names[4:]
            for index in range(table.num_rows):
                row = table.slice(index, 1)
                yield ClipFeatures(
                    row["clip_id"][0].as_py(),
                    steps_of(row),
                    row["timestamps_s"].combine_chunks().flatten().to_numpy(),
                    {name: row[name].combine_chunks().flatten().to_numpy() for name in extras},
                )


def steps_of(table: pa.Table) -> np.ndarray:
    """All steps of all clips of a store's table, one below the other: (sum of num_steps, D) float16."""
    lists = table["features"].combine_chunks().flatten()
    return lists.flatten().to_numpy().reshape(len(lists), lists.type.list_size)


def _ahead(read: Callable[[str], pa.Table], parts: Sequence[str]) -> Iterator[pa.Table]:
    """The tables of the parts, in order; while one is used, the next few are decoded in threads."""
    pool = ThreadPoolExecutor(_PARTS_AHEAD)
    try:
        reading = deque(pool.submit(read, part) for part in parts[:_PARTS_AHEAD])
        for part in [*parts[_PARTS_AHEAD:], *[None] * len(reading)]:
            table = reading.popleft().result()
            if part is not None:
                reading.append(pool.submit(read, part))
            yield table
    finally:
        pool.shutdown(cancel_futures=True)


def stores_of(workspace: Workspace, modality: Modality) -> list[FeatureStore]:
    """All stores of a modality in a workspace."""
    names = workspace.folders(f"features/{modality}")
    stores = [FeatureStore(workspace, modality, name) for name in names]
    return [store for store in stores if store.is_described()]


def find_store(
    workspace: Workspace, modality: Modality, *, extractor: str | None = None, fingerprint: str | None = None
) -> FeatureStore:
    """The one store of a modality that fits; narrowed by extractor name or fingerprint where given.

    Raises:
        UserError: there is none, or several fit; the message lists what there is.
    """
    held = [store for store in stores_of(workspace, modality) if store.parts()]
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
            else f"Make them: emi-ray extract -w {workspace.root} --modalities {modality}."
        )
    )


@dataclass(frozen=True)
class Failure:
    """Why one clip has no features of one extractor. Stage ``missing``: the clip lacks the input."""

    clip_id: str
    modality: str
    fingerprint: str
    stage: str
    error: str
    attempt: int = 1


def write_failures(workspace: Workspace, failures: Sequence[Failure]) -> None:
    """Append failures, all of one extractor."""
    if not failures:
        return
    first = failures[0]
    table = pa.Table.from_pylist([vars(failure) for failure in failures], schema=FAILURES_SCHEMA)
    name = f"part-{_digest(f'{failure.clip_id}/{failure.attempt}' for failure in failures)}.parquet"
    workspace.write_table(f"failures/{first.modality}/{first.fingerprint}/{name}", table)


def read_failures(workspace: Workspace, stores: Sequence[FeatureStore] | None = None) -> pa.Table:
    """The failures that still stand (latest attempt of each clip that has no features), by clip id.

    Args:
        stores: only theirs; by default those of every store in the workspace.
    """
    if stores is None:
        stores = [
            FeatureStore(workspace, modality, name)
            for modality in MODALITIES
            for name in workspace.folders(f"failures/{modality}")
        ]
    return pa.concat_tables([FAILURES_SCHEMA.empty_table(), *map(_standing_failures, stores)])


def _standing_failures(store: FeatureStore) -> pa.Table:
    parts = store.workspace.files(f"failures/{store.modality}/{store.fingerprint}")
    if not parts:
        return FAILURES_SCHEMA.empty_table()
    rows = pa.concat_tables([store.workspace.read_table(part) for part in parts]).to_pylist()
    latest = {row["clip_id"]: row for row in sorted(rows, key=lambda row: row["attempt"])}
    done = store.clip_ids()
    standing = [row for clip_id, row in sorted(latest.items()) if clip_id not in done]
    return pa.Table.from_pylist(standing, schema=FAILURES_SCHEMA)


def _features_table(rows: Sequence[ClipFeatures], metadata: Mapping[str, str]) -> pa.Table:
    feature_dim, extras = rows[0].values.shape[1], sorted(rows[0].extras)
    schema = features_schema(feature_dim, extras, metadata)
    lengths = np.array([len(row.values) for row in rows])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    steps = np.concatenate([row.values.astype(np.float16) for row in rows])
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(steps.reshape(-1)), feature_dim)

    def per_step(parts: Sequence[np.ndarray]) -> pa.Array:
        flat = pa.array(np.concatenate(parts).astype(np.float32))
        return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), flat)

    columns = [
        pa.array([row.clip_id for row in rows]),
        pa.array(lengths.astype(np.int32)),
        pa.LargeListArray.from_arrays(pa.array(offsets), vectors),
        per_step([row.timestamps_s for row in rows]),
        *(per_step([row.extras[name] for row in rows]) for name in extras),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _digest(names: Any) -> str:
    return hashlib.blake2b("\n".join(sorted(names)).encode(), digest_size=8).hexdigest()
