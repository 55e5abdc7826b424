"""Training of one stage-1 encoder as a job of its own, which several runs may share."""

import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from emi_ray.schema import EncoderName
from emi_ray.training.data.clip_data import ClipData
from emi_ray.training.data.split_rows import split_rows
from emi_ray.training.loop import OnEpochEnd
from emi_ray.training.plan import EncoderJob, Location
from emi_ray.training.resume_state import ResumeState
from emi_ray.training.run import EarlierEncoders
from emi_ray.training.stages.encoder_cache import WorkspaceEncoderCache
from emi_ray.training.stages.runner import Hooks
from emi_ray.training.stages.train_recipe import train_recipe


@dataclass(frozen=True)
class EncoderDone:
    """The result of an encoder job.

    Attributes:
        modality: name of the encoder.
        reused: whether the encoder was already in the cache.
        location: where the job ran.
        started: start of the job, in seconds since 1970.
        seconds: duration of the job.
    """

    modality: EncoderName
    reused: bool
    location: Location
    started: float
    seconds: float


def train_encoder(
    job: EncoderJob,
    data: ClipData,
    resume_state: ResumeState,
    *,
    device: torch.device,
    location: Location,
    on_epoch_end: OnEpochEnd | None = None,
    reuse: bool = True,
) -> EncoderDone:
    """Train an encoder and store it in the workspace's cache, where the runs that need it will find it.

    Args:
        job: the encoder to train.
        data: all clips with the encoder's features.
        resume_state: stores the state for resuming.
        device: device to train on.
        location: where this job runs.
        on_epoch_end: called after each epoch.
        reuse: whether an encoder in the cache is used instead of training.

    Raises:
        UserError: the labels or the features do not allow training.
    """
    recipe, workspace = job.plan.recipe, job.plan.workspace
    started = time.time()
    alone = recipe.model_copy(
        update={"encoders": {job.modality: recipe.encoders[job.modality]}, "fusion": None}
    )
    cache = WorkspaceEncoderCache(workspace, reuse)
    hooks = Hooks(on_epoch_end, resume_state.keep, resume_state.load(), cache)
    rows = split_rows(data, recipe.split)
    trained = train_recipe(alone, data, rows, seed=job.plan.seed, device=device, hooks=hooks)
    resume_state.forget()
    return EncoderDone(job.modality, job.modality in trained.reused, location, started, time.time() - started)


def earlier_of(done: Iterable[EncoderDone]) -> EarlierEncoders:
    """Summarise the encoder jobs of a run, which ran before the run itself."""
    trained = [encoder for encoder in done if not encoder.reused]
    return EarlierEncoders(
        {encoder.modality: encoder.location for encoder in trained},
        min((encoder.started for encoder in trained), default=float("inf")),
        sum(encoder.seconds for encoder in trained),
    )
