"""Execution of one run, from the workspace's features to the files of its folder. Does not use Ray."""

import math
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import torch

from emi_ray.training.checkpoint import ModelDescription, versions
from emi_ray.training.data.clip_data import ClipData
from emi_ray.training.data.split_rows import DRAWN_SEED, draw_split, split_rows
from emi_ray.training.distributed import Team
from emi_ray.training.loop import OnEpochEnd
from emi_ray.training.plan import Location, RunPlan
from emi_ray.training.run_files import write_run
from emi_ray.training.stages.encoder_cache import WorkspaceEncoderCache
from emi_ray.training.stages.runner import Hooks, OnRunCheckpoint
from emi_ray.training.stages.train_recipe import train_recipe


@dataclass(frozen=True)
class EarlierEncoders:
    """The stage-1 encoders that were trained for a run before it started, each in a job of its own.

    Attributes:
        trained: where each encoder was trained; encoders that were found in the cache are not included.
        started: start of the first of these jobs, in seconds since 1970.
        seconds: total duration of these jobs.
    """

    trained: Mapping[str, Location] = field(default_factory=dict)
    started: float = math.inf
    seconds: float = 0.0


def execute_run(
    plan: RunPlan,
    *,
    data: ClipData | None = None,
    device: torch.device | None = None,
    location: Location | None = None,
    on_epoch_end: OnEpochEnd | None = None,
    on_checkpoint: OnRunCheckpoint | None = None,
    resume: Mapping[str, Any] | None = None,
    reuse_encoders: bool = True,
    earlier: EarlierEncoders | None = None,
) -> dict[str, Any]:
    """Read the data, train, predict, and write the files of a run; returns the content of ``metrics.json``.

    With ``torch.distributed``, every worker calls this function; only the first one writes and returns metrics.

    Args:
        plan: the run.
        data: result of :meth:`RunPlan.read_data`, if the caller already has it.
        device: device to train on; by default the CPU.
        location: where this process runs; by default this host.
        on_epoch_end: called after each epoch.
        on_checkpoint: called after each epoch with a function that builds the state to resume from.
        resume: a state that ``on_checkpoint`` built.
        reuse_encoders: whether stage-1 encoders in the cache are used.
        earlier: the stage-1 encoders that were trained for this run.

    Raises:
        UserError: the labels or the features do not allow training.
    """
    device, location = device or torch.device("cpu"), location or Location(socket.gethostname())
    earlier, clock = earlier or EarlierEncoders(), _Clock(resume or {})

    def checkpoint(build: Callable[[], dict[str, Any]], stage_ended: bool) -> None:
        if on_checkpoint is not None:
            # The clock is read when the state is stored, so that a resumed run counts its time once.
            on_checkpoint(lambda: {**build(), **clock.dump()}, stage_ended)

    data = plan.read_data() if data is None else data
    rows = split_rows(data, plan.recipe.split)
    split = plan.recipe.split
    # A drawn split is kept for the reader; the run itself draws it again from the fixed seed.
    if split != "official" and Team.current().rank == 0:
        plan.workspace.write_table(f"splits/{split}-{DRAWN_SEED}.parquet", draw_split(data, split))
    cache = WorkspaceEncoderCache(plan.workspace, reuse_encoders)
    hooks = Hooks(on_epoch_end, checkpoint, resume, cache)
    trained = train_recipe(plan.recipe, data, rows, seed=plan.seed, device=device, hooks=hooks)
    if Team.current().rank != 0:
        return {}
    # Encoders of this command's own jobs come from the cache too, but were not reused.
    trained = replace(trained, reused=trained.reused - earlier.trained.keys())
    extractors = {modality: store.describe() for modality, store in plan.stores.items()}
    description = ModelDescription(
        recipe=plan.recipe,
        seed=plan.seed,
        labels=data.labels,
        extractors=extractors,
        media=plan.media,
        versions=versions(),
        run_key=plan.key,
        inputs=dict(plan.inputs),
        transcriber=plan.transcript_store.describe() if plan.transcript_store is not None else None,
    )
    history = {
        # The encoders of the run may have been trained before it, in jobs of their own.
        "started": _timestamp(min(clock.started, earlier.started)),
        "node": location.node,
        "gpus": sorted({gpu for each in (location, *earlier.trained.values()) for gpu in each.gpus}),
        "device": device.type,
    }
    return write_run(
        plan.workspace,
        plan.folder,
        trained,
        data,
        description,
        # Called after everything else is written, so that the duration includes it.
        lambda: {**history, "seconds": round(clock.seconds + earlier.seconds, 3)},
    )


class _Clock:
    """Measures the time that a run has taken, including the time before it was resumed, and its first start."""

    def __init__(self, resume: Mapping[str, Any]) -> None:
        self.started: float = resume.get("run_started", time.time())
        # Shifted into the past by the time that was spent before the interruption.
        self._origin = time.perf_counter() - resume.get("run_seconds", 0.0)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._origin

    def dump(self) -> dict[str, float]:
        return {"run_seconds": self.seconds, "run_started": self.started}


def _timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
