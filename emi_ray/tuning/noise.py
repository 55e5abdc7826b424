"""How much of a difference between two systems is luck with the seeds and with the clips."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from emi_ray.metrics import BY_LABEL, mean_score, pearson
from emi_ray.resampling import codes_of, draw_rows
from emi_ray.schema import Label, snake

_DRAWS = 100

Metric = Callable[[np.ndarray, np.ndarray], float]
"""Predictions and targets, (n, L) each → score."""


@dataclass(frozen=True)
class FoldPredictions:
    """What a recipe says of the clips that validate one fold: (n, L) each, in the units of the labels.

    ``groups`` (n,) names the person of each clip, or None; None where the corpus names no groups.
    """

    predictions: np.ndarray
    targets: np.ndarray
    groups: np.ndarray | None = None


@dataclass(frozen=True)
class Judged:
    """A recipe under one seed on the tuning split: its score, the mean over folds, and what it is made of."""

    value: float
    folds: tuple[FoldPredictions, ...]
    labels: tuple[Label, ...]


def error_of_gain(challenger: Sequence[Judged], other: Sequence[Judged], metric: Metric) -> float:
    """Standard error of the challenger's mean gain over the other under the same seeds.

    Paired bootstrap (Efron and Tibshirani, 1993): seeds, and within each fold groups of clips, are drawn again
    with replacement, the same for both, and the gain is computed anew. The standard deviation over draws is the
    error, made larger for few seeds as that of a sample is. There are at least two seeds.
    """
    random, num_seeds = np.random.default_rng(0), len(other)
    codes = [codes_of(fold.groups, len(fold.targets)) for fold in other[0].folds]
    gains = []
    for _ in range(_DRAWS):
        weights = np.bincount(random.integers(num_seeds, size=num_seeds), minlength=num_seeds)
        clips = [draw_rows(random, groups) for groups in codes]
        drawn = [
            weight * (_again(challenger[seed], clips, metric) - _again(other[seed], clips, metric))
            for seed, weight in enumerate(weights)
            if weight
        ]
        gains.append(sum(drawn) / num_seeds)
    return float(np.nanstd(gains)) * sqrt(num_seeds / (num_seeds - 1))


def metric_of(name: str, labels: Sequence[Label]) -> Metric:
    """The score of that name: a mean over labels, or Pearson's r of one."""
    if (score := name.removeprefix("val_")) in BY_LABEL:
        return lambda predictions, targets: mean_score(score, predictions, targets)
    (label,) = (place for place, each in enumerate(labels) if name == f"val_pearson_{snake(each.name)}")
    own = slice(label, label + 1)
    return lambda predictions, targets: float(pearson(predictions[:, own], targets[:, own])[0])


def _again(judged: Judged, clips: Sequence[np.ndarray], metric: Metric) -> float:
    pairs = zip(judged.folds, clips, strict=True)
    return float(np.mean([metric(fold.predictions[drawn], fold.targets[drawn]) for fold, drawn in pairs]))
