"""THE pipeline: manifest → decode → vision → motion → audio → text, features written on the way."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset

from emi_ray.config import WorkspaceConfig
from emi_ray.errors import EmiRayError, UserError
from emi_ray.extraction.pools import Pool, plan_pools
from emi_ray.extraction.stages import ALWAYS, Decode, Extract
from emi_ray.extraction.summary import ExtractionSummary
from emi_ray.extraction.work import plan_work, store_of, todo_column, without_outcome
from emi_ray.extractors import ExtractorSpec, specify
from emi_ray.feature_store import Failure, write_failures
from emi_ray.runtime import machine, require_shared
from emi_ray.schema import Modality
from emi_ray.workspace import Workspace

ORDER: tuple[Modality, ...] = ("vision", "motion", "audio", "text")
"""Heaviest inputs first, so that they are dropped early."""

MAX_RETRIES = 2
"""Of a batch whose worker dies, before its clips are tried one by one. Ray Data's default is for ever."""

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
        UserError: a modality has no extractor, or an extractor's settings are wrong.
    """
    specs = specify_all(config, modalities)
    require_shared(workspace)
    clips = workspace.clips()
    work = plan_work(workspace, clips, specs, retry_failed)
    summary = ExtractionSummary(already_done=clips.num_rows - work.num_rows)
    started = time.perf_counter()
    pools = plan_pools(machine(), specs, config.extraction)
    one_by_one = {name: Pool(**{**vars(pool), "batch_size": 1}) for name, pool in pools.items()}
    lost = _run(workspace, config, specs, pools, work, summary, on_progress)
    lost = _run(workspace, config, specs, one_by_one, lost, summary, on_progress)
    _quarantine(workspace, specs, lost, summary)
    summary.seconds = time.perf_counter() - started
    return summary


def specify_all(
    config: WorkspaceConfig, modalities: Sequence[Modality] | None
) -> dict[Modality, ExtractorSpec]:
    """The configured extractor of each modality, by default of all of them, in pipeline order."""
    wanted = modalities or list(config.extractors)
    for modality in wanted:
        if modality not in config.extractors:
            raise UserError(
                f"No extractor is configured for {modality}: set extractors.{modality}.name "
                f"(emi-ray extractors lists them)."
            )
    return {m: specify(m, config.extractors[m], config.media) for m in ORDER if m in wanted}


def build_pipeline(
    workspace: Workspace,
    config: WorkspaceConfig,
    specs: Mapping[Modality, ExtractorSpec],
    pools: Mapping[str, Pool],
    work: pa.Table,
) -> Dataset:
    """The lazy Ray Data pipeline. Its output is ``clip_id`` and ``outcomes``: features stay behind."""
    needs = {modality: spec.needs for modality, spec in specs.items()}
    dataset: Dataset = ray.data.from_arrow(_blocks(work, pools["decode"], config.extraction.rows_per_block))
    dataset = dataset.map_batches(
        Decode,
        fn_constructor_args=(config.media, needs, config.extraction.time_limit_s),
        **_on(pools["decode"]),
    )
    for modality, spec in specs.items():
        dataset = dataset.map_batches(
            Extract,
            fn_constructor_args=(workspace, spec, _needed_after(modality, specs), pools[modality].threads),
            **_on(pools[modality]),
        )
    return dataset


def _run(
    workspace: Workspace,
    config: WorkspaceConfig,
    specs: Mapping[Modality, ExtractorSpec],
    pools: Mapping[str, Pool],
    work: pa.Table,
    summary: ExtractionSummary,
    on_progress: Progress,
) -> pa.Table:
    """Stream ``work`` through the pipeline; returns the part that dying workers lost."""
    if not work.num_rows:
        return work
    settled: dict[Modality, set[str]] = {modality: set() for modality in specs}
    total = summary.clips + work.num_rows
    _configure_ray_data()
    dataset = build_pipeline(workspace, config, specs, pools, work)
    for clip_id, outcomes in _outcomes(dataset):
        _stop_if_broken(outcomes)
        summary.add(outcomes)
        for modality in settled:
            settled[modality].add(clip_id)
        on_progress(summary.clips, total)
    return without_outcome(work, settled)


def _outcomes(dataset: Dataset) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        assert isinstance(batch, pa.Table)
        yield from zip(batch["clip_id"].to_pylist(), batch["outcomes"].to_pylist(), strict=True)


def _stop_if_broken(outcomes: list[dict[str, Any]]) -> None:
    for outcome in outcomes:
        if outcome["status"] == "broken":
            raise EmiRayError(
                f"The {outcome['stage']} stage cannot work: {outcome['reason']} "
                f"What is done is kept; mend the cause and run the same command again."
            )


def _quarantine(
    workspace: Workspace,
    specs: Mapping[Modality, ExtractorSpec],
    lost: pa.Table,
    summary: ExtractionSummary,
) -> None:
    """Record the clips over which a worker died again although it held nothing else."""
    reason = "the worker process died while it held this clip (out of memory, or a crash in native code)"
    for modality, spec in specs.items():
        store, todo = store_of(workspace, spec), todo_column(modality)
        held = store.clip_ids() if lost.num_rows else set()
        dead = [row for row in lost.to_pylist() if row[todo] is not None and row["clip_id"] not in held]
        failures = [
            Failure(row["clip_id"], modality, spec.fingerprint, "worker", reason, row[todo]) for row in dead
        ]
        write_failures(workspace, failures)
        for _ in failures:
            summary.add_outcome({"stage": modality, "status": "failed", "seconds": 0.0, "reason": reason})


def _needed_after(modality: Modality, specs: Mapping[Modality, ExtractorSpec]) -> list[str]:
    """Columns that the stages behind ``modality`` read; all else is dropped here."""
    later = list(specs)[list(specs).index(modality) + 1 :]
    needs = {need for stage in later for need in specs[stage].needs}
    if not later:
        return ["clip_id"]
    return [*ALWAYS, *map(todo_column, later), *sorted(needs)]


def _on(pool: Pool) -> dict[str, Any]:
    """How ``map_batches`` is told of a pool."""
    return {
        "batch_size": pool.batch_size,
        "batch_format": "pyarrow",
        "compute": ActorPoolStrategy(min_size=pool.min_actors, max_size=pool.max_actors),
        "num_cpus": pool.num_cpus,
        "num_gpus": pool.num_gpus or None,
        "max_task_retries": MAX_RETRIES,
    }


def _blocks(work: pa.Table, pool: Pool, rows_per_block: int) -> list[pa.Table]:
    """The manifest in blocks small enough that all actors have work, and few enough for a million clips."""
    rows = min(max(work.num_rows // (pool.max_actors * 32), rows_per_block), 256)
    return [work.slice(start, rows) for start in range(0, work.num_rows, rows)]


def _configure_ray_data() -> None:
    context = DataContext.get_current()
    context.execution_no_progress_timeout_s = 600
    context.wait_for_min_actors_s = 120
    context.max_errored_blocks = -1  # a block whose worker keeps dying is run again clip by clip
    context.target_max_block_size = 64 * 2**20
