"""The score of one trial: a recipe is trained on the tuning split. Uses neither Ray nor files."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from emi_ray.recipe.schema import Recipe
from emi_ray.training.loop import stopping_score
from emi_ray.training.run_files import final_rows, predict_rows
from emi_ray.training.stages.runner import FUSION, EncoderCache, Hooks
from emi_ray.training.stages.train_recipe import train_recipe
from emi_ray.tuning.significance import FoldPredictions
from emi_ray.tuning.tuning_data import TuningData

OnStep = Callable[[int, float], None]
"""Called after each epoch of the last stage with the epoch and the score so far; with several folds, on the first."""

OnPredictions = Callable[[FoldPredictions], object]
"""Called after each fold with the predictions of its validation clips."""


@dataclass(frozen=True)
class TrialScore:
    """The result of a trial.

    Attributes:
        value: the score, mean over folds.
        num_parameters: number of parameters of the model.
        seconds: training time; for a reused encoder, the time of its original training is added.
        wall_seconds: elapsed time of this trial.
        best_epochs: best epoch of the last stage of each fold.
        fold_values: score of each fold.
    """

    value: float
    num_parameters: int
    seconds: float
    wall_seconds: float
    best_epochs: tuple[int, ...]
    fold_values: tuple[float, ...]

    @property
    def facts(self) -> dict[str, Any]:
        """Values that are stored with the trial besides its score."""
        return {
            "num_parameters": self.num_parameters,
            "train_seconds": round(self.seconds, 3),
            "wall_seconds": round(self.wall_seconds, 3),
            "best_epochs": list(self.best_epochs),
            **({"fold_values": list(self.fold_values)} if len(self.fold_values) > 1 else {}),
        }


def score_recipe(
    recipe: Recipe,
    data: TuningData,
    metric: str,
    *,
    seed: int | None = None,
    device: torch.device | None = None,
    encoder_cache: EncoderCache | None = None,
    on_step: OnStep | None = None,
    on_predictions: OnPredictions | None = None,
) -> TrialScore:
    """Train a recipe on each fold and compute its score.

    The score is the mean over folds of ``metric`` at the best epoch of the last stage.

    Args:
        recipe: the recipe, with resolved backbones.
        data: the clips and the folds.
        metric: name of the score, for example ``val_pearson``.
        seed: random seed; by default the recipe's ``training.seed``.
        device: device to train on; by default the CPU.
        encoder_cache: cache of stage-1 encoders, which are reused if possible and stored.
        on_step: called after each epoch of the last stage on the first fold.
        on_predictions: called after each fold.
    """
    values: list[float] = []
    best_epochs: list[int] = []
    seconds, started = 0.0, time.perf_counter()
    for fold, rows in enumerate(data.folds):
        # Pruning compares trials at equal steps, so only the first fold reports.
        watch = _Watch(recipe, metric, on_step if fold == 0 else None)
        trained = train_recipe(
            recipe,
            data.clips,
            rows,
            seed=recipe.training.seed if seed is None else seed,
            device=device,
            hooks=Hooks(on_epoch_end=watch, encoder_cache=encoder_cache),
        )
        last = trained.results[last_stage(recipe)]
        values.append(float(last.scores[metric]))
        best_epochs.append(last.best_epoch)
        seconds += sum(outcome.seconds for outcome in trained.results.values())
        if on_predictions is not None:
            val = final_rows(recipe, data.clips, rows).val
            predictions = predict_rows(trained.model, data.clips, val)
            groups = None if data.clips.groups is None else data.clips.groups[val]
            on_predictions(FoldPredictions(predictions, data.clips.targets[val], groups))
    return TrialScore(
        value=sum(values) / len(values),
        num_parameters=sum(parameter.numel() for parameter in trained.model.parameters()),
        seconds=seconds,
        wall_seconds=time.perf_counter() - started,
        best_epochs=tuple(best_epochs),
        fold_values=tuple(values),
    )


def last_stage(recipe: Recipe) -> str:
    """Return the name of the stage whose score is that of the recipe."""
    return FUSION if recipe.fusion is not None else recipe.streams[0]


@dataclass
class _Watch:
    """Tracks the last stage. Its score so far is that of the epoch which ``fit`` would select as the best one."""

    recipe: Recipe
    metric: str
    on_step: OnStep | None
    best: float = field(default=float("-inf"))
    value: float = field(default=float("nan"))

    def __call__(self, entry: Mapping[str, Any]) -> None:
        if self.on_step is None or entry["stage"] != last_stage(self.recipe):
            return
        chosen_by = stopping_score(entry)
        # The same rule as in fit(), so that the last report equals the final score.
        if chosen_by > self.best + self.recipe.training.min_improvement:
            self.best, self.value = chosen_by, entry[self.metric]
        self.on_step(int(entry["epoch"]), float(self.value))
