"""Execution of a training stage: resuming, recording its result, and calling hooks."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from emi_ray.models.fusion import Regressor
from emi_ray.recipe.schema import Recipe
from emi_ray.recipe.sections import TrainingSettings
from emi_ray.schema import EncoderName
from emi_ray.training.data.batching import shared_tensor
from emi_ray.training.data.clip_data import ClipData, PackedFeatures
from emi_ray.training.data.split_rows import Rows
from emi_ray.training.loop import FitState, OnEpochEnd, fit
from emi_ray.training.stages.embedding import pool_once

FUSION = "fusion"


@dataclass(frozen=True)
class StageResult:
    """The result of a finished stage.

    Attributes:
        weights: weights of the best epoch, including the head.
        scores: scores of that epoch on the stage's validation clips.
        history: one entry for each epoch.
        best_epoch: number of the best epoch, counted from 1.
        num_train, num_val: number of training and validation clips.
        seconds: duration of the stage.
    """

    weights: dict[str, Tensor]
    scores: dict[str, Any]
    history: list[dict[str, Any]]
    best_epoch: int
    num_train: int
    num_val: int
    seconds: float


class EncoderCache(Protocol):
    """Stores finished encoder stages by a hash of everything that determines them."""

    def load(self, modality: EncoderName, key: str) -> StageResult | None: ...

    def save(self, modality: EncoderName, key: str, result: StageResult) -> None: ...


OnRunCheckpoint = Callable[[Callable[[], dict[str, Any]], bool], None]
"""Called after every epoch with a function that builds the state to resume the run from, and whether a stage
has just ended."""


@dataclass(frozen=True)
class Hooks:
    """Optional hooks of :func:`emi_ray.training.stages.train_recipe.train_recipe`.

    Attributes:
        on_epoch_end: called after each epoch.
        on_checkpoint: called after each epoch with a function that builds the state to resume from.
        resume: a state that ``on_checkpoint`` built.
        encoder_cache: stores trained encoders.
    """

    on_epoch_end: OnEpochEnd | None = None
    on_checkpoint: OnRunCheckpoint | None = None
    resume: Mapping[str, Any] | None = None
    encoder_cache: EncoderCache | None = None


@dataclass
class StageRunner:
    """Runs the stages of one recipe in sequence and collects their results."""

    recipe: Recipe
    data: ClipData
    rows: Rows
    seed: int
    device: torch.device
    hooks: Hooks
    results: dict[str, StageResult] = field(default_factory=dict)
    reused: set[str] = field(default_factory=set)
    encoder_keys: dict[str, str] = field(default_factory=dict)

    def train(
        self, stage: str, model: Regressor, data: ClipData, rows: Rows, training: TrainingSettings
    ) -> None:
        """Run one stage, or restore it from the state to resume from; ``model`` then has its best weights."""
        resume = self.hooks.resume or {}
        if stage in resume.get("finished", {}):
            self.results[stage] = StageResult(**resume["finished"][stage])
            model.load_state_dict(self.results[stage].weights)
            return
        earlier = resume.get("seconds", 0.0) if resume.get("stage") == stage else 0.0
        started = time.perf_counter() - earlier
        state = fit(
            model,
            pool_once(model, data, self.device),
            rows.train,
            rows.val,
            training,
            self.recipe.objective,
            seed=self.seed,
            inner=rows.inner,
            stage=stage,
            device=self.device,
            on_epoch_end=self.hooks.on_epoch_end,
            resume=resume["fit"] if resume.get("stage") == stage else None,
            on_checkpoint=lambda dump: self._checkpoint(stage, dump, time.perf_counter() - started),
        )
        seconds = time.perf_counter() - started
        self.results[stage] = _result_of(model, state, rows, seconds)
        self._checkpoint(stage, None, seconds)

    def _checkpoint(self, stage: str, dump: Callable[[], dict[str, Any]] | None, seconds: float) -> None:
        if self.hooks.on_checkpoint is None:
            return

        def build() -> dict[str, Any]:
            finished = {name: dict(vars(result)) for name, result in self.results.items()}
            under_way = {} if dump is None else {"stage": stage, "fit": dump(), "seconds": seconds}
            return {"finished": finished, **under_way}

        self.hooks.on_checkpoint(build, dump is None)


def feature_statistics(features: PackedFeatures, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    """Compute the mean and standard deviation of each feature over all steps of some clips, (D,) float32 each."""
    values = shared_tensor(features.values)
    spans = [(features.starts[row], features.starts[row] + features.lengths[row]) for row in rows]
    spans = [(start, stop) for start, stop in spans if start < stop]
    # Deviations from one of the steps are small, so that float32 suffices for the sums over a clip.
    origin = values[spans[0][0]].float() if spans else torch.zeros(features.feature_dim)
    count, total, squares = 0, *torch.zeros(2, features.feature_dim, dtype=torch.float64)
    for start, stop in spans:
        deviations = values[start:stop].float() - origin
        count += len(deviations)
        total += deviations.sum(0)
        squares += deviations.square_().sum(0)
    mean = total / max(count, 1)
    variance = (squares / max(count, 1) - mean.square()).clamp_min(0.0)
    mean += origin
    # A feature that is constant except for rounding errors must not be scaled up to variance 1.
    variance[variance < 1e-10 * mean.square()] = 0.0
    return mean.float(), variance.sqrt().float()


def _result_of(model: Regressor, state: FitState, rows: Rows, seconds: float) -> StageResult:
    entry = state.history[max(state.best_epoch, 1) - 1] if state.best_epoch else state.history[-1]
    kept = {name: value for name, value in entry.items() if name.startswith(("val_", "num_", "inner_"))}
    weights = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    return StageResult(
        weights, kept, state.history, state.best_epoch, len(rows.train), len(rows.val), seconds
    )
