"""One extraction run: what is to do, through the pipeline, until nothing is left without an outcome."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from ray.data import Dataset
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import RayError

from emi_ray.config import WorkspaceConfig
from emi_ray.errors import EmiRayError, UserError
from emi_ray.extraction.measure import measure
from emi_ray.extraction.pipeline import Pipeline, configure_ray_data, plan_pipeline
from emi_ray.extraction.pools import Measurement, Pool, plan_pools
from emi_ray.extraction.summary import ExtractionSummary
from emi_ray.extraction.work import plan_work, store_of, todo_column, with_transcripts
from emi_ray.failures import Failure, write_failures
from emi_ray.runtime import machine, require_shared
from emi_ray.schema import Modality
from emi_ray.workspace import Workspace, sweep

MEASURE_FROM_CLIPS = 500
"""Shorter runs are over before a measurement would pay."""

Progress = Callable[[int, int], None]
"""Called with (clips done, clips in all)."""


def extract(
    workspace: Workspace,
    config: WorkspaceConfig,
    modalities: Sequence[Modality] | None = None,
    retry_failed: bool = False,
    on_progress: Progress = lambda done, total: None,
) -> ExtractionSummary:
    """Bring the feature store up to the manifest. Needs a Ray session (``runtime.ray_session``).

    Whatever a killed run left undone is done by the next; what is done is not touched.

    Raises:
        UserError: as :func:`plan_pipeline`, or a node does not see the workspace.
        EmiRayError: a stage cannot work at all.
    """
    started = time.perf_counter()
    pipeline = plan_pipeline(workspace, config, modalities)
    sweep(workspace, "features")
    clips = with_transcripts(workspace, workspace.clips(), pipeline.transcriber)
    work = plan_work(workspace, clips, pipeline.specs, retry_failed)
    require_shared(workspace, _some_media(work))
    summary = ExtractionSummary(already_done=clips.num_rows - work.num_rows)
    if work.num_rows:
        long_enough = work.num_rows >= MEASURE_FROM_CLIPS
        summary.measured = measure(pipeline, work) if long_enough and config.extraction.measure else None
        summary.pools = propose_pools(pipeline, summary.measured)
        lost = _stream(pipeline, work, summary.pools, summary, on_progress)
        if lost:
            left = plan_work(workspace, _only(clips, lost), pipeline.specs, retry_failed)
            singly = {name: pool.one_by_one() for name, pool in summary.pools.items()}
            lost = _stream(pipeline, left, singly, summary, on_progress)
        if lost:
            dead = plan_work(workspace, _only(clips, lost), pipeline.specs, retry_failed)
            _quarantine(pipeline, dead, summary)
    summary.seconds = time.perf_counter() - started
    return summary


def plan(
    workspace: Workspace, config: WorkspaceConfig, modalities: Sequence[Modality] | None = None
) -> tuple[dict[str, Pool], Measurement]:
    """Try each stage on a few clips and propose pools; nothing is written. Needs a Ray session.

    Raises:
        UserError: as :func:`plan_pipeline`, or the corpus has no clip.
    """
    pipeline = plan_pipeline(workspace, config, modalities)
    clips = workspace.clips()
    if not clips.num_rows:
        raise UserError(f"{workspace.root} has no clip to measure.")
    measured = measure(pipeline, clips)
    return propose_pools(pipeline, measured), measured


def propose_pools(pipeline: Pipeline, measured: Measurement | None) -> dict[str, Pool]:
    """Pools for the machine or cluster of the current Ray session."""
    return plan_pools(machine(), pipeline.stages, pipeline.config.extraction, measured)


def _stream(
    pipeline: Pipeline,
    work: pa.Table,
    pools: Mapping[str, Pool],
    summary: ExtractionSummary,
    on_progress: Progress,
) -> set[str]:
    """Stream ``work`` through the pipeline; returns the clips that dying workers lost."""
    lost = set(work["clip_id"].to_pylist())
    if not lost:
        return lost
    total = summary.clips + len(lost)
    # A clip that hangs is tried three times: whole, then sound and pictures apart.
    configure_ray_data(3 * pipeline.config.extraction.time_limit_s * pools["decode"].batch_size)
    for clip_id, outcomes in _outcomes(pipeline.build(work, pools)):
        _stop_if_broken(outcomes)
        summary.add(outcomes)
        lost.discard(clip_id)
        on_progress(summary.clips, total)
    return lost


def _outcomes(dataset: Dataset) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    try:
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            assert isinstance(batch, pa.Table)
            yield from zip(batch["clip_id"].to_pylist(), batch["outcomes"].to_pylist(), strict=True)
    except (RayError, ExecutionTimeoutError) as error:
        raise EmiRayError(
            f"Ray ended the run: {error} What is done is kept; the same command goes on."
        ) from None


def _stop_if_broken(outcomes: list[dict[str, Any]]) -> None:
    for outcome in outcomes:
        if outcome["status"] == "broken":
            raise EmiRayError(
                f"The {outcome['stage']} stage cannot work: {outcome['reason']} "
                f"What is done is kept; mend the cause and run the same command again."
            )


def _quarantine(pipeline: Pipeline, dead: pa.Table, summary: ExtractionSummary) -> None:
    """Record the clips over which a worker died again although it held nothing else."""
    reason = "the worker process died while it held this clip (out of memory, or a crash in native code)"
    for modality, spec in pipeline.specs.items():
        fingerprint = store_of(pipeline.workspace, spec).fingerprint
        attempts = dict(
            zip(dead["clip_id"].to_pylist(), dead[todo_column(modality)].to_pylist(), strict=True)
        )
        failures = [
            Failure(clip_id, modality, fingerprint, "worker", reason, number)
            for clip_id, number in attempts.items()
            if number is not None
        ]
        write_failures(pipeline.workspace, failures)
        for _ in failures:
            summary.add_outcome({"stage": modality, "status": "failed", "seconds": 0.0, "reason": reason})


def _some_media(work: pa.Table) -> list[str]:
    """A few of the files that every node will have to open."""
    named = (row[name] for row in work.slice(0, 3).to_pylist() for name in ("video", "audio", "faces_dir"))
    return [path for path in named if path]


def _only(clips: pa.Table, ids: set[str]) -> pa.Table:
    return clips.filter(pc.is_in(clips["clip_id"], value_set=pa.array(sorted(ids), pa.string())))
