"""Failures of clips with their reasons: ``failures/<modality>/<fingerprint>/``, one row per attempt.

A failure no longer counts when the clip has features, or when its inputs have changed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from emi_ray.schema import FAILURES_SCHEMA, MODALITIES, UNKNOWN, Origin
from emi_ray.storage import without_credentials
from emi_ray.store.feature_store import FeatureStore
from emi_ray.store.parts import PartFolder
from emi_ray.workspace import Workspace


@dataclass(frozen=True)
class Failure:
    """The reason why one clip has no features of one extractor.

    Stage ``missing`` means that the clip lacks the input.
    """

    clip_id: str
    modality: str
    fingerprint: str
    stage: str
    error: str
    attempt: int = 1
    origin: Origin = UNKNOWN


def failure_parts(store: FeatureStore) -> PartFolder:
    """Return the folder with the failures of a store's extractor."""
    folder = f"failures/{store.modality}/{store.fingerprint}"
    return PartFolder(store.workspace, folder, FAILURES_SCHEMA, _modern, keeps_attempts=True)


def write_failures(workspace: Workspace, failures: Sequence[Failure]) -> None:
    """Append failures, all of the same extractor."""
    if not failures:
        return
    first = failures[0]
    rows = [
        {**vars(failure), "source": failure.origin.source, "source_stamp": failure.origin.stamp}
        for failure in failures
    ]
    table = pa.Table.from_pylist(rows, schema=FAILURES_SCHEMA)
    store = FeatureStore(workspace, first.modality, first.fingerprint)  # type: ignore[arg-type]
    failure_parts(store).write(table, (f"{failure.clip_id}/{failure.attempt}" for failure in failures))


def read_failures(workspace: Workspace, stores: Sequence[FeatureStore] | None = None) -> pa.Table:
    """Return the failures that count (the latest attempt of each clip without features), by clip id.

    Args:
        stores: by default all stores in the workspace.
    """
    if stores is None:
        stores = [
            FeatureStore(workspace, modality, name)
            for modality in MODALITIES
            for name in workspace.folders(f"failures/{modality}")
        ]
    return pa.concat_tables([FAILURES_SCHEMA.empty_table(), *map(_standing, stores)])


def _standing(store: FeatureStore) -> pa.Table:
    rows = failure_parts(store).record().select(FAILURES_SCHEMA.names)
    if not rows.num_rows:
        return FAILURES_SCHEMA.empty_table()
    rows = rows.sort_by([("clip_id", "ascending"), ("attempt", "descending")])
    ids = rows["clip_id"].combine_chunks()
    # index_in returns the first row of a clip, which is its latest attempt in this order.
    latest = pc.equal(pc.index_in(ids, value_set=ids), pa.array(range(len(ids)), pa.int32()))
    done = store.held.record()["clip_id"].combine_chunks()
    standing = rows.filter(pc.and_(latest, pc.invert(pc.is_in(ids, value_set=done))))
    reasons = pa.array(map(without_credentials, standing["error"].to_pylist()), pa.string())
    standing = standing.set_column(standing.column_names.index("error"), "error", reasons)
    return standing.cast(FAILURES_SCHEMA).combine_chunks()


def _modern(table: pa.Table, columns: Sequence[str] | None) -> pa.Table:
    """Convert a table to the present schema: until 2026-11 failures did not record the inputs of the attempt."""
    for field in FAILURES_SCHEMA:
        if field.name not in table.column_names and (columns is None or field.name in columns):
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return table
