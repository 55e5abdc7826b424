"""Determine the work: clips whose present inputs have neither features nor a recorded failure in the store.

Features, transcripts and failures of a clip count only if they were made from the clip's present inputs
(``media/provenance.py``). Those made from other inputs are stale: they are removed and made again.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel

from emi_ray.config import ExtractorSettings
from emi_ray.errors import UserError
from emi_ray.extraction.staleness import RecordComparison, compare
from emi_ray.extractors import Extractor, ExtractorSpec, TranscriberSpec, check_settings
from emi_ray.media.provenance import Inputs
from emi_ray.schema import MEDIA_COLUMNS, Modality, Origin
from emi_ray.store.failures import read_failures
from emi_ray.store.feature_store import FeatureStore
from emi_ray.store.parts import PartFolder
from emi_ray.store.transcript_store import TranscriptStore
from emi_ray.wording import plural
from emi_ray.workspace import Workspace


def store_of(workspace: Workspace, spec: ExtractorSpec) -> FeatureStore:
    """Return the store of an extractor's features."""
    return FeatureStore(workspace, spec.kind.MODALITY, spec.fingerprint)


def todo_column(modality: Modality) -> str:
    """Return the name of the column with the number of the next attempt; null if there is nothing to do."""
    return f"todo_{modality}"


def tried_before(rows: pa.Table, todo: str) -> set[str]:
    """Return the ids of the clips whose next attempt is not their first one.

    Args:
        todo: name of a :func:`todo_column`.
    """
    return set(rows["clip_id"].filter(pc.greater(rows[todo], 1)).to_pylist())


def origin_column(modality: Modality) -> str:
    """Return the name of the column that describes the inputs of the modality's features.

    A value is a stamp; once the clip is decoded, ``|`` and the hash of the content follow.
    """
    return f"origin_{modality}"


def origin_of(value: str) -> Origin:
    """Parse a value of an :func:`origin_column`."""
    stamp, _, content = value.partition("|")
    return Origin(content, stamp)


@dataclass(frozen=True)
class ModalityWork:
    """The state of the manifest's N clips for one modality.

    Attributes:
        attempts: (N,) number of the next attempt, null if there is nothing to do.
        stamps: (N,) stamps of the inputs that features would be made from.
        features, failures: comparison of the stored rows with the present inputs.
    """

    attempts: pa.Array
    stamps: pa.Array
    features: RecordComparison
    failures: RecordComparison


@dataclass(frozen=True)
class Work:
    """The work of an extraction.

    Attributes:
        table: the clips with anything to do: ``clip_id``, the media columns, and for each modality its
            :func:`todo_column` and :func:`origin_column`. Transcripts that were recognised from the present audio
            are filled in.
        by_modality: the state of all clips.
        transcripts: the state of recognised transcripts; None without a recogniser.
    """

    table: pa.Table
    by_modality: Mapping[Modality, ModalityWork]
    transcripts: RecordComparison | None
    _held: Mapping[str, PartFolder] = field(repr=False, default_factory=dict)

    @property
    def redone(self) -> dict[str, Counter[str]]:
        """By modality and reason, the number of clips whose existing features are extracted again."""
        return {m: work.features.reasons for m, work in self.by_modality.items() if work.features.reasons}

    @property
    def lifted(self) -> dict[str, Counter[str]]:
        """By modality and reason, the number of quarantined clips that are tried again."""
        return {m: work.failures.reasons for m, work in self.by_modality.items() if work.failures.reasons}

    def discard_stale(self) -> None:
        """Remove stale features and transcripts, and store the new stamps of files whose content has not changed."""
        comparisons = {m: work.features for m, work in self.by_modality.items()}
        if self.transcripts is not None:
            comparisons["transcript"] = self.transcripts  # type: ignore[index]
        for name, each in comparisons.items():
            held = self._held[name]
            if each.stale.num_rows:
                held.discard(each.stale)
            if each.restamped:
                held.restamp(each.restamped)


def what_changed(store: FeatureStore, clips: pa.Table) -> str:
    """Return a sentence on clips whose stored features are stale; "" if there are none.

    Features cannot be compared if they were imported, or made by an extractor that no longer exists.

    Args:
        clips: the clips, with the transcripts of the corpus.
    """
    made_by = store.describe()
    if (made := _extractor_of(store)) is None:
        return ""
    kind, settings = made
    stamps = Inputs(clips).stamps(kind.needs(settings), recognises="transcriber" in made_by)
    changed = compare(store.held.record(), clips["clip_id"].combine_chunks(), stamps, clips).changed
    if not changed:
        return ""
    clip_id, why = next(iter(changed.items()))
    return (
        f"The {store.modality} features of {plural(len(changed), 'clip')} were made from other inputs than there are "
        f"now (for example {clip_id}: {why}). To extract them again: emi-ray extract -w {store.workspace.quoted}"
    )


def what_lacks(store: FeatureStore, clips: pa.Table) -> str:
    """Return a sentence on clips that the extraction has not reached; "" if there are none.

    They have neither features nor a reason why they have none. Without this sentence they would count as clips that
    lack the modality. It cannot be told of imported features.

    Args:
        clips: the clips of the corpus.
    """
    if _extractor_of(store) is None:
        return ""
    ids = clips["clip_id"].combine_chunks()
    reached = [store.held.record()["clip_id"], read_failures(store.workspace, [store])["clip_id"]]
    is_reached = pc.is_in(ids, value_set=pa.concat_arrays([column.combine_chunks() for column in reached]))
    lacking = ids.filter(pc.invert(is_reached))
    if not len(lacking):
        return ""
    return (
        f"The {store.modality} of {plural(len(lacking), 'clip')}, for example {lacking[0]}, is not extracted yet, so "
        f"that they count as clips without {store.modality}. To extract it: emi-ray extract -w "
        f"{store.workspace.quoted}"
    )


def _extractor_of(store: FeatureStore) -> tuple[type[Extractor], BaseModel] | None:
    """Return the extractor of a store and its settings; None for imported features, or if it no longer exists."""
    made_by = store.describe()
    wanted = ExtractorSettings(name=made_by["extractor"], settings=made_by.get("settings", {}))
    try:
        return check_settings(store.modality, wanted)
    except UserError:
        return None


def plan_work(
    workspace: Workspace,
    clips: pa.Table,
    specs: Mapping[Modality, ExtractorSpec],
    transcriber: TranscriberSpec | None = None,
    retry_failed: bool = False,
) -> Work:
    """Compare what is stored with the clips' present inputs. Media are read only if their size or time has changed.

    A clip has work for a modality if the store lacks its features or has stale ones, and it is not quarantined with
    its present inputs. With ``retry_failed`` only quarantined clips have work.

    Args:
        clips: the clips, with the transcripts of the corpus.
    """
    inputs = Inputs(clips)
    ids = clips["clip_id"].combine_chunks()
    held: dict[str, PartFolder] = {}
    transcripts = None
    columns = {name: clips[name] for name in ("clip_id", *MEDIA_COLUMNS)}
    if transcriber is not None:
        recognised = TranscriptStore(workspace, transcriber.fingerprint)
        held["transcript"] = recognised.held
        record = recognised.held.record()
        transcripts = compare(record, ids, inputs.stamps(["waveform"]), clips)
        columns["transcript"] = _filled(clips["transcript"], record, transcripts)
    works: dict[Modality, ModalityWork] = {}
    for modality, spec in specs.items():
        store = store_of(workspace, spec)
        held[modality] = store.held
        stamps = inputs.stamps(spec.needs, recognises=transcriber is not None)
        features = compare(store.held.record(), ids, stamps, clips)
        # Failures are compared like features: a failure with other inputs than the present ones does not count.
        failed = read_failures(workspace, [store])
        failures = compare(failed, ids, stamps, clips)
        attempts = _attempts(features, failures, failed, retry_failed)
        works[modality] = ModalityWork(attempts, stamps, features, failures)
        columns |= {todo_column(modality): attempts, origin_column(modality): stamps}
    table = _with_anything_to_do(pa.table(columns), works)
    return Work(table, works, transcripts, held)


def _filled(given: pa.ChunkedArray, record: pa.Table, comparison: RecordComparison) -> pa.ChunkedArray:
    """Return the given transcripts, completed with those recognised from the present audio."""
    # take() returns null for a null index, so clips without a current transcript stay null.
    place = pa.array(comparison.row, mask=~comparison.current)
    return pc.coalesce(given, record["transcript"].combine_chunks().take(place))


def _attempts(
    features: RecordComparison, failures: RecordComparison, failed: pa.Table, retry_failed: bool
) -> pa.Array:
    tried = failed["attempt"].to_numpy()[failures.row] if failed.num_rows else np.zeros(len(failures.row))
    # The row of a clip without a failure has no meaning, so its value is replaced here.
    tried = np.where(failures.present, tried, 0).astype(np.int32)
    todo = failures.present if retry_failed else ~features.current & ~failures.current
    return pa.array(tried + 1, mask=~todo)


def _with_anything_to_do(table: pa.Table, works: Mapping[Modality, ModalityWork]) -> pa.Table:
    anything = np.zeros(table.num_rows, dtype=bool)
    for work in works.values():
        anything |= work.attempts.is_valid().to_numpy(zero_copy_only=False)
    return table.filter(pa.array(anything))
