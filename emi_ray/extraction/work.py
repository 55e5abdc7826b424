"""What is still to do: the clips of the manifest, less what the store holds and what is quarantined."""

from collections.abc import Mapping, Sequence

import pyarrow as pa

from emi_ray.extractors import ExtractorSpec
from emi_ray.feature_store import FeatureStore, read_failures
from emi_ray.schema import MEDIA_COLUMNS, Modality
from emi_ray.workspace import Workspace


def store_of(workspace: Workspace, spec: ExtractorSpec) -> FeatureStore:
    """Where the features of an extractor lie."""
    return FeatureStore(workspace, spec.kind.MODALITY, spec.fingerprint)


def todo_column(modality: Modality) -> str:
    """Name of the column that holds the number of the attempt to make; null where nothing is to do."""
    return f"todo_{modality}"


def plan_work(
    workspace: Workspace,
    clips: pa.Table,
    specs: Mapping[Modality, ExtractorSpec],
    retry_failed: bool = False,
) -> pa.Table:
    """The clips with anything to do: ``clip_id``, the media columns and one ``todo_<modality>`` each.

    A clip is to do for a modality when the store lacks it and it is not quarantined; with ``retry_failed``
    only what is quarantined is to do.
    """
    ids = clips["clip_id"].to_pylist()
    columns = {name: clips[name] for name in ("clip_id", *MEDIA_COLUMNS)}
    for modality, spec in specs.items():
        columns[todo_column(modality)] = _attempts(ids, store_of(workspace, spec), retry_failed)
    return _with_anything_to_do(pa.table(columns), list(specs))


def without_outcome(work: pa.Table, settled: Mapping[Modality, set[str]]) -> pa.Table:
    """The part of ``work`` whose outcome never arrived, because a worker died over it."""
    ids = work["clip_id"].to_pylist()
    for modality, done in settled.items():
        name = todo_column(modality)
        left = [
            None if clip_id in done else attempt
            for clip_id, attempt in zip(ids, work[name].to_pylist(), strict=True)
        ]
        work = work.set_column(work.schema.get_field_index(name), name, pa.array(left, pa.int32()))
    return _with_anything_to_do(work, list(settled))


def _attempts(ids: Sequence[str], store: FeatureStore, retry_failed: bool) -> pa.Array:
    failures = read_failures(store.workspace, [store])
    tried = dict(zip(failures["clip_id"].to_pylist(), failures["attempt"].to_pylist(), strict=True))
    if retry_failed:
        return pa.array([tried[i] + 1 if i in tried else None for i in ids], pa.int32())
    settled = store.clip_ids() | tried.keys()
    return pa.array([None if i in settled else 1 for i in ids], pa.int32())


def _with_anything_to_do(work: pa.Table, modalities: Sequence[Modality]) -> pa.Table:
    todo = [work[todo_column(modality)].to_pylist() for modality in modalities]
    anything = [any(attempt is not None for attempt in row) for row in zip(*todo, strict=True)]
    return work.filter(pa.array(anything, pa.bool_()))
