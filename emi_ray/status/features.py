"""Compare features and transcripts with the present inputs of their clips."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import compress

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from emi_ray.config import WorkspaceConfig
from emi_ray.errors import UserError
from emi_ray.extraction.pending import ModalityWork, Work, plan_work, store_of
from emi_ray.extraction.pipeline import plan_pipeline
from emi_ray.extraction.staleness import RecordComparison
from emi_ray.schema import MODALITIES
from emi_ray.status.status_line import Line
from emi_ray.store.failures import read_failures
from emi_ray.store.feature_store import FeatureStore, stores_of
from emi_ray.workspace import Workspace


def feature_lines(workspace: Workspace, config: WorkspaceConfig, clips: pa.Table) -> Iterator[Line]:
    """Yield one line per configured extractor, one for the transcripts, and one for each other store."""
    command = f"emi-ray extract -w {workspace.quoted}"
    shown: set[tuple[str, str]] = set()
    # A workspace of imported features has nothing that extractors could read.
    has_media = any(clips[name].null_count < clips.num_rows for name in ("video", "audio", "transcript"))
    for modality in MODALITIES if has_media else ():
        if modality not in config.extractors:
            continue
        try:
            pipeline = plan_pipeline(workspace, config, [modality])
        except UserError as error:
            yield Line("features", modality, why=(str(error),))
            continue
        work = plan_work(workspace, clips, pipeline.specs, pipeline.transcriber)
        store = store_of(workspace, pipeline.specs[modality])
        shown.add((modality, store.fingerprint))
        if work.transcripts is not None:
            assert pipeline.transcriber is not None
            line = _transcripts(work, clips, command)
            yield replace(line, fingerprint=pipeline.transcriber.fingerprint)
        name = f"{modality} ({config.extractors[modality].name})"
        ids = clips["clip_id"].to_pylist()
        line = _line(name, ids, work.by_modality[modality], read_failures(workspace, [store]), command)
        yield replace(line, fingerprint=store.fingerprint)
    for modality in MODALITIES:
        for store in stores_of(workspace, modality):
            if (modality, store.fingerprint) not in shown:
                yield _other(store, clips)


def _line(name: str, ids: Sequence[str], work: ModalityWork, failures: pa.Table, command: str) -> Line:
    stale = len(work.features.changed)
    current = int(work.features.current.sum())
    todo = int(work.attempts.is_valid().to_numpy(zero_copy_only=False).sum())
    # Clips that are neither done nor to be tried are in quarantine.
    quarantined = len(work.attempts) - todo - current
    # A failure whose input has changed since is tried again.
    standing = [row for row in failures.to_pylist() if row["clip_id"] not in work.failures.changed]
    lacking = [row for row in standing if row["stage"] == "missing"]
    failed = [row for row in standing if row["stage"] != "missing"]
    return Line(
        "features",
        name,
        current=current,
        stale=stale,
        missing=todo - stale,
        quarantined=quarantined,
        lacking=len(lacking),
        why=(*_reasons(work, ids), *_quarantine(lacking, failed)),
        command=command if todo else None,
    )


def _reasons(work: ModalityWork, ids: Sequence[str]) -> Iterator[str]:
    for why, count in work.features.reasons.items():
        yield f"{count} stale: {why} ({_some(_changed_for(why, work.features))})"
    for why, count in work.failures.reasons.items():
        yield f"{count} can be tried again: {why} ({_some(_changed_for(why, work.failures))})"
    if uncomparable := int(work.features.uncomparable.sum()):
        named = _some(list(compress(ids, work.features.uncomparable)))
        yield (
            f"{uncomparable} cannot be compared, because their inputs are gone, are not accessible or were not "
            f"recorded ({named}); their features are kept"
        )


def _quarantine(lacking: Sequence[Mapping[str, str]], failed: Sequence[Mapping[str, str]]) -> Iterator[str]:
    for rows, why in ((lacking, "for want of an input"), (failed, "after an error")):
        if rows:
            yield f"{len(rows)} quarantined {why}, for example {rows[0]['clip_id']}: {rows[0]['error']}"


def _changed_for(why: str, compared: RecordComparison) -> list[str]:
    return [clip_id for clip_id, reason in compared.changed.items() if reason == why]


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:3]) + (", …" if len(ids) > 3 else "")


def _transcripts(work: Work, clips: pa.Table, command: str) -> Line:
    """Return the line on recognised transcripts, of the clips without a transcript in the corpus."""
    comparison = work.transcripts
    assert comparison is not None
    wanted = clips["transcript"].is_null().to_numpy()
    ids = clips["clip_id"].to_pylist()
    stale = [i for i, is_wanted in zip(ids, wanted, strict=True) if is_wanted and i in comparison.changed]
    # Clips with a transcript in the corpus need no recognised one.
    current = int((comparison.current & wanted).sum())
    missing = int(wanted.sum()) - current - len(stale)
    why = tuple(f"{len(stale)} stale: {reason}" for reason in {comparison.changed[i] for i in stale})
    # Missing transcripts alone give no command: the line of the text features has it.
    return Line(
        "transcripts",
        "recognised",
        current=current,
        stale=len(stale),
        missing=missing,
        why=why,
        command=command if stale else None,
    )


def _other(store: FeatureStore, clips: pa.Table) -> Line:
    held = pc.is_in(clips["clip_id"], value_set=store.held.record()["clip_id"].combine_chunks())
    current = int(np.sum(held.to_numpy()))
    name = f"{store.modality} ({store.describe()['extractor']}, {store.fingerprint})"
    why = ("made by another extractor, other settings or an earlier version: extract does not change it",)
    return Line("features", name, current=current, missing=clips.num_rows - current, why=why)
