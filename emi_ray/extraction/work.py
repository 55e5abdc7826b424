"""What is still to do: the clips of the manifest, less what the store holds and what is quarantined."""

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from emi_ray.extractors import ExtractorSpec, TranscriberSpec
from emi_ray.failures import read_failures
from emi_ray.feature_store import FeatureStore
from emi_ray.schema import MEDIA_COLUMNS, Modality
from emi_ray.transcript_store import TranscriptStore
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


def with_transcripts(workspace: Workspace, clips: pa.Table, transcriber: TranscriberSpec | None) -> pa.Table:
    """``clips`` with the transcripts that were recognised before, where they came without one."""
    if transcriber is None:
        return clips
    known = TranscriptStore(workspace, transcriber.fingerprint).read()
    recognised = pa.array([known.get(clip_id) for clip_id in clips["clip_id"].to_pylist()], pa.string())
    column = clips.schema.get_field_index("transcript")
    return clips.set_column(column, clips.schema.field(column), pc.coalesce(clips["transcript"], recognised))


def _attempts(ids: Sequence[str], store: FeatureStore, retry_failed: bool) -> pa.Array:
    failures = read_failures(store.workspace, [store])
    tried = dict(zip(failures["clip_id"].to_pylist(), failures["attempt"].to_pylist(), strict=True))
    if retry_failed:
        return pa.array([tried[i] + 1 if i in tried else None for i in ids], pa.int32())
    settled = store.clip_ids() | tried.keys()
    return pa.array([None if i in settled else 1 for i in ids], pa.int32())


def _with_anything_to_do(work: pa.Table, modalities: Sequence[Modality]) -> pa.Table:
    todo = [pc.is_valid(work[todo_column(modality)]) for modality in modalities]
    anything = todo[0]
    for column in todo[1:]:
        anything = pc.or_(anything, column)
    return work.filter(anything)
