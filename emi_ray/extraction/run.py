"""Run one extraction: plan the work and stream it through the pipeline until every clip has an outcome."""

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
from ray.exceptions import RayError

from emi_ray.config import WorkspaceConfig
from emi_ray.errors import UserError
from emi_ray.events import tell
from emi_ray.extraction.batches import outcome
from emi_ray.extraction.maintenance import PartMaintenance, tidy_up
from emi_ray.extraction.measure import measure
from emi_ray.extraction.passes import Passes, Progress
from emi_ray.extraction.pending import origin_column, origin_of, plan_work, store_of, todo_column
from emi_ray.extraction.pipeline import Pipeline, plan_pipeline
from emi_ray.extraction.pools import Measurement, Pool, plan_pools
from emi_ray.extraction.precision import note_other_precisions, settle_precision
from emi_ray.extraction.run_record import DONE, RunRecord
from emi_ray.extraction.summary import ExtractionSummary
from emi_ray.runtime import machine, require_shared
from emi_ray.runtime.node_watch import living_nodes
from emi_ray.schema import Modality
from emi_ray.storage import in_words
from emi_ray.store.failures import Failure, read_failures, write_failures
from emi_ray.workspace import EXTRACTIONS, Workspace

MEASURE_FROM_CLIPS = 500
"""Minimum number of clips for a measurement of the stages. In shorter runs it takes longer than it saves."""


def check(
    workspace: Workspace, config: WorkspaceConfig, modalities: Sequence[Modality] | None = None
) -> None:
    """Check the settings, extractors and workspace of an extraction within seconds, without a Ray session.

    Raises:
        UserError: as :func:`plan_pipeline`, the workspace has no corpus, or it is not writable.
    """
    workspace.clips(["clip_id"])
    workspace.require_writable()
    plan_pipeline(workspace, config, modalities)


def require_alone(workspace: Workspace) -> None:
    """Check that no other process extracts into a workspace on a disk (raises ``UserError``).

    Behind a URI a lease takes seconds, and :func:`extract` checks it.
    """
    if workspace.is_local:
        with _alone(workspace):
            pass


def extract(
    workspace: Workspace,
    config: WorkspaceConfig,
    modalities: Sequence[Modality] | None = None,
    retry_failed: bool = False,
    on_progress: Progress = lambda done, total: None,
) -> ExtractionSummary:
    """Extract all features that the store lacks for the clips of the manifest. Needs a Ray session.

    Existing features are kept. After an interruption, the next call does only what is left. Start the session with
    ``runtime.ray_session``.

    Args:
        modalities: by default all that have an extractor.
        retry_failed: process only quarantined clips, again.
        on_progress: called with (number of clips done, total number of clips).

    Raises:
        UserError: as :func:`plan_pipeline`, a node cannot read the workspace, or another process extracts into it.
        EmiRayError: a stage cannot work at all, or nodes died too often for all clips to be done.
    """
    with _alone(workspace):
        return _extract(workspace, config, modalities, retry_failed, on_progress)


def _alone(workspace: Workspace) -> AbstractContextManager[None]:
    """Ensure that no other process extracts into the workspace meanwhile (raises ``UserError``)."""
    return workspace.driving(EXTRACTIONS, f"Extraction into {workspace.root}")


def _extract(
    workspace: Workspace,
    config: WorkspaceConfig,
    modalities: Sequence[Modality] | None,
    retry_failed: bool,
    on_progress: Progress,
) -> ExtractionSummary:
    started = time.perf_counter()
    notes: list[str] = []
    known = set(living_nodes())
    precision = settle_precision(config, modalities or config.extractors, note=notes.append)
    pipeline = plan_pipeline(workspace, config, modalities, precision)
    # Only the driver sweeps, and it holds the lock, so no other extraction is writing these files.
    workspace.sweep("features")
    clips = workspace.clips()
    planned = plan_work(workspace, clips, pipeline.specs, pipeline.transcriber, retry_failed)
    work = planned.table
    media = _some_media(work)
    require_shared(workspace, media)
    pipeline = replace(pipeline, seen_media=tuple(path for path in media if os.path.exists(path)))
    for spec in pipeline.specs.values():
        store_of(workspace, spec).describe_again(spec.identity)
    # Stale rows are removed before new ones are written, since the first row of a clip counts.
    planned.discard_stale()
    summary = ExtractionSummary(
        already_done=clips.num_rows - work.num_rows,
        redone=planned.redone,
        lifted=planned.lifted,
        notes=notes,
    )
    _note_kept_precision(pipeline, precision, summary)
    if not work.num_rows:
        tidy_up(pipeline)  # a run that was killed at its very end may have left parts to merge
        return summary
    record = RunRecord(workspace, config, pipeline)
    # Written before the work, so that a run that is killed leaves a trace.
    record.write(summary)
    ended = "interrupted"
    maintenance = PartMaintenance(pipeline)
    try:
        if work.num_rows >= MEASURE_FROM_CLIPS and config.extraction.measure:
            summary.measured = _measured(pipeline, work, summary)

        def plan_pass(planned: Pipeline) -> dict[str, Pool]:
            if new := living_nodes().keys() - known:
                known.update(new)
                require_shared(workspace, media, new)
                note_other_precisions(config, _used_precision(pipeline, precision), new, summary.note)
            return propose_pools(planned, summary.measured)

        def show(done: int, total: int) -> None:
            on_progress(done, total)
            summary.seconds = time.perf_counter() - started
            record.keep(summary)

        passes = Passes(
            pipeline,
            summary,
            maintenance,
            left=lambda ids: _left(pipeline, clips, ids, retry_failed),
            failures=lambda m: read_failures(workspace, [store_of(workspace, pipeline.specs[m])]),
            plan=plan_pass,
            on_progress=show,
        )
        for modality, dead in passes.run(work).items():
            _quarantine(pipeline, modality, dead, summary)
        maintenance.finish()
        _note_precision(pipeline, summary)
        ended = DONE
    except Exception as error:
        ended = in_words(error)
        raise
    finally:
        summary.seconds = time.perf_counter() - started
        record.end(summary, ended)
        rate = round(summary.clips_per_s, 3)
        tell("extraction_ended", ended=ended, clips=summary.clips, clips_per_s=rate, passes=summary.passes)
        maintenance.stop()
    return summary


def plan(
    workspace: Workspace, config: WorkspaceConfig, modalities: Sequence[Modality] | None = None
) -> tuple[dict[str, Pool], Measurement]:
    """Measure each stage on a few clips and propose pools. Nothing is written. Needs a Ray session.

    Raises:
        UserError: as :func:`plan_pipeline`, or the corpus has no clips.
    """
    precision = settle_precision(config, modalities or config.extractors)
    pipeline = plan_pipeline(workspace, config, modalities, precision)
    clips = workspace.clips()
    if not clips.num_rows:
        raise UserError(f"{workspace.root} has no clips to measure.")
    measured = measure(pipeline, clips)
    return propose_pools(pipeline, measured), measured


def _measured(pipeline: Pipeline, work: pa.Table, summary: ExtractionSummary) -> Measurement | None:
    """Return the result of :func:`measure`; None, with a note, if a clip or a node makes it fail."""
    try:
        return measure(pipeline, work)
    except (RayError, TimeoutError) as error:
        summary.note(f"stages could not be measured ({type(error).__name__}): pools have their default sizes")
        return None


def propose_pools(pipeline: Pipeline, measured: Measurement | None) -> dict[str, Pool]:
    """Plan pools for the machine or cluster of the current Ray session."""
    settings = pipeline.config.extraction
    return plan_pools(machine(), pipeline.stages, settings, measured, pipeline.reads_media)


def _quarantine(pipeline: Pipeline, modality: Modality, dead: pa.Table, summary: ExtractionSummary) -> None:
    """Record clips as failed that were lost repeatedly on living nodes, alone in their task."""
    reason = (
        f"the process of {modality}, or of an earlier stage, died each time that it processed this clip alone"
    )
    store = store_of(pipeline.workspace, pipeline.specs[modality])
    names = ("clip_id", todo_column(modality), origin_column(modality))
    attempts = zip(*(dead[name].to_pylist() for name in names), strict=True)
    failures = [
        Failure(clip_id, modality, store.fingerprint, "worker", reason, number, origin_of(origin))
        for clip_id, number, origin in attempts
    ]
    write_failures(pipeline.workspace, failures)
    for failure in failures:
        summary.add_failure(failure.clip_id, outcome(modality, "failed", reason))


def _used_precision(pipeline: Pipeline, asked: Mapping[str, str]) -> dict[str, str]:
    """Return the precision in which each stage computes: that of existing features, or else the nodes' answer."""
    used = {}
    for stage, dtype in asked.items():
        spec = pipeline.transcriber if stage == "transcript" else pipeline.specs[stage]  # type: ignore[index]
        used[stage] = getattr(spec.settings, "dtype", dtype) if spec else dtype
    return used


def _note_kept_precision(pipeline: Pipeline, asked: Mapping[str, str], summary: ExtractionSummary) -> None:
    """Note the stages whose existing features have another precision than the nodes would choose now."""
    for stage, used in _used_precision(pipeline, asked).items():
        if used != asked[stage]:
            place = "transcriber" if stage == "transcript" else f"extractors.{stage}"
            summary.note(
                f"{stage} computes in {used}, like the existing features; these nodes would choose {asked[stage]}. "
                f"To extract all features again: {place}.settings.dtype={asked[stage]}"
            )


def _note_precision(pipeline: Pipeline, summary: ExtractionSummary) -> None:
    """Note which features are stored in another precision than float16, and why."""
    for modality, spec in pipeline.specs.items():
        store = store_of(pipeline.workspace, spec)
        if store.is_described() and (reason := store.describe().get("dtype_reason")):
            summary.note(f"{modality} features are stored as {store.dtype}: {reason}")


def _some_media(work: pa.Table) -> list[str]:
    """Return a few of the files that every node will have to open."""
    named = (row[name] for row in work.slice(0, 3).to_pylist() for name in ("video", "audio", "faces_dir"))
    return [path for path in named if path]


def _left(pipeline: Pipeline, clips: pa.Table, lost: set[str], retry_failed: bool) -> pa.Table:
    """Return the work that is left for clips that a pass has lost."""
    only = clips.filter(pc.is_in(clips["clip_id"], value_set=pa.array(sorted(lost), pa.string())))
    return plan_work(pipeline.workspace, only, pipeline.specs, pipeline.transcriber, retry_failed).table
