"""The first stage of one encoder as a job of its own, which several runs may share."""

import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from emi_ray.schema import Stream
from emi_ray.training.clip_data import ClipData
from emi_ray.training.encoder_cache import WorkspaceEncoderCache
from emi_ray.training.encoder_key import encoder_settings
from emi_ray.training.loop import OnEpochEnd
from emi_ray.training.rows import split_rows
from emi_ray.training.run import Earlier, Place, RunPlan, hash_of
from emi_ray.training.stages import Hooks, train_recipe
from emi_ray.training.unfinished import Unfinished


@dataclass(frozen=True)
class EncoderJob:
    """What is to be trained: the encoder of one modality, as ``plan`` wants it.

    Two jobs with the same ``key`` end with the same weights, whichever runs they belong to.
    """

    plan: RunPlan
    modality: Stream
    key: str


@dataclass(frozen=True)
class EncoderDone:
    """What came of a job: whether an earlier command had trained the encoder, where, when, and how long it took."""

    modality: Stream
    reused: bool
    place: Place
    started: float
    seconds: float


def encoder_jobs(plan: RunPlan) -> list[EncoderJob]:
    """The stage-1 encoders of a run; none for a recipe that trains all of its parts together."""
    recipe = plan.recipe
    if recipe.fusion is not None and (recipe.stages == "joint" or recipe.fusion.type == "late"):
        return []
    return [EncoderJob(plan, modality, _key(plan, modality)) for modality in recipe.streams]


def _key(plan: RunPlan, modality: Stream) -> str:
    inputs = [plan.inputs["clips"], plan.inputs.get(modality), plan.recipe.split]
    return hash_of([encoder_settings(plan.recipe, modality, plan.seed), inputs])


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
