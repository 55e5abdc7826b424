"""Standard error of the difference between two systems, due to random seeds and to the sample of clips."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from emi_ray.metrics import BY_LABEL, label_score, mean_score, pearson
from emi_ray.resampling import codes_of, draw_rows
from emi_ray.schema import Label

_DRAWS = 100

Metric = Callable[[np.ndarray, np.ndarray], float]
"""A function from predictions and targets, (n, L) each, to a score."""


@dataclass(frozen=True)
class FoldPredictions:
    """Predictions and targets of the validation clips of one fold, (n, L) each, in the units of the labels.

    ``groups`` (n,) names the person of each clip, or None for a clip without one; it is None if the corpus names no
    groups.
    """

    predictions: np.ndarray
    targets: np.ndarray
    groups: np.ndarray | None = None


@dataclass(frozen=True)
class SeedScore:
    """A recipe with one seed on the tuning split: its score, which is the mean over folds, and its predictions."""

    value: float
    folds: tuple[FoldPredictions, ...]
    labels: tuple[Label, ...]


def gain_standard_error(challenger: Sequence[SeedScore], other: Sequence[SeedScore], metric: Metric) -> float:
    """Compute the standard error of the challenger's mean gain over the other system.

    This is a paired bootstrap (Efron and Tibshirani, 1993): seeds, and within each fold groups of clips, are drawn
    with replacement, and the gain is computed on each draw. Both systems use the same draws, so that what affects
    both alike (easy clips) cancels. The standard error is the standard deviation over draws, with the correction S
    / (S - 1) of the variance for a small number of seeds S.

    Args:
        challenger, other: one entry per seed, for the same seeds; at least two.
        metric: the score.
    """
    # A fixed seed: the same trials always lead to the same decision.
    random, num_seeds = np.random.default_rng(0), len(other)
    # The clips of a fold are the same for both systems and all seeds.
    codes = [codes_of(fold.groups, len(fold.targets)) for fold in other[0].folds]
    gains = []
    for _ in range(_DRAWS):
        # A seed that is drawn twice counts twice, instead of computing its gain again.
        weights = np.bincount(random.integers(num_seeds, size=num_seeds), minlength=num_seeds)
        clips = [draw_rows(random, groups) for groups in codes]
        drawn = [
            weight * (_again(challenger[seed], clips, metric) - _again(other[seed], clips, metric))
            for seed, weight in enumerate(weights)
            if weight
        ]
        gains.append(sum(drawn) / num_seeds)
    # A draw whose labels are constant has no score and is left out.
    return float(np.nanstd(gains)) * sqrt(num_seeds / (num_seeds - 1))


def metric_of(name: str, labels: Sequence[Label]) -> Metric:
    """Return the score function of a name: a mean over labels, or Pearson's r of one label."""
    if (score := name.removeprefix("val_")) in BY_LABEL:
        return lambda predictions, targets: mean_score(score, predictions, targets)
    (label,) = (place for place, each in enumerate(labels) if name == label_score(each.name))
    own = slice(label, label + 1)
    return lambda predictions, targets: float(pearson(predictions[:, own], targets[:, own])[0])


def _again(judged: SeedScore, clips: Sequence[np.ndarray], metric: Metric) -> float:
    pairs = zip(judged.folds, clips, strict=True)
    return float(np.mean([metric(fold.predictions[drawn], fold.targets[drawn]) for fold, drawn in pairs]))
