"""The first stage of one encoder as a job of its own, which several runs may share."""

import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from emi_ray.schema import Stream
from emi_ray.training.clip_data import ClipData
from emi_ray.training.encoder_cache import WorkspaceEncoderCache
from emi_ray.training.loop import OnEpochEnd
from emi_ray.training.plan import EncoderJob, Place
from emi_ray.training.rows import split_rows
from emi_ray.training.run import Earlier
from emi_ray.training.stages import Hooks, train_recipe
from emi_ray.training.unfinished import Unfinished


@dataclass(frozen=True)
class EncoderDone:
    """What came of a job: whether an earlier command had trained the encoder, where, when, and how long it took."""

    modality: Stream
    reused: bool
    place: Place
    started: float
    seconds: float


def train_encoder(
    job: EncoderJob,
    data: ClipData,
    unfinished: Unfinished,
    *,
    device: torch.device,
    place: Place,
    on_epoch_end: OnEpochEnd | None = None,
    reuse: bool = True,
) -> EncoderDone:
    """Train an encoder and keep it in the workspace's cache, where the runs that need it find it.

    Raises:
        UserError: the labels or the features do not allow training.
    """
    recipe, workspace = job.plan.recipe, job.plan.workspace
    started = time.time()
    alone = recipe.model_copy(
        update={"encoders": {job.modality: recipe.encoders[job.modality]}, "fusion": None}
    )
    cache = WorkspaceEncoderCache(workspace, reuse)
    hooks = Hooks(on_epoch_end, unfinished.keep, unfinished.load(), cache)
    rows = split_rows(data, recipe.split)
    trained = train_recipe(alone, data, rows, seed=job.plan.seed, device=device, hooks=hooks)
    unfinished.forget()
    return EncoderDone(job.modality, job.modality in trained.reused, place, started, time.time() - started)


def earlier_of(done: Iterable[EncoderDone]) -> Earlier:
    """What the jobs of a run did before the run itself started."""
    trained = [encoder for encoder in done if not encoder.reused]
    return Earlier(
        {encoder.modality: encoder.place for encoder in trained},
        min((encoder.started for encoder in trained), default=float("inf")),
        sum(encoder.seconds for encoder in trained),
    )
