"""How much of a difference between two systems is luck with the seeds and with the clips."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from emi_ray.metrics import scores
from emi_ray.schema import Label

_DRAWS = 200


@dataclass(frozen=True)
class Judged:
    """A recipe under one seed on the clips that validate: its score, and what it says of each clip.

    Attributes:
        predictions, targets: (n, L) in the units of the labels; with folds, one fold below the other.
    """

    value: float
    predictions: np.ndarray
    targets: np.ndarray
    labels: tuple[Label, ...]


def error_of_gain(challenger: Sequence[Judged], other: Sequence[Judged], metric: str) -> float:
    """Standard error of the challenger's mean gain over the other under the same seeds.

    Paired bootstrap (Efron and Tibshirani, 1993): seeds and clips are drawn again with replacement, the same
    for both, and the gain is computed anew; its standard deviation over draws is the error.
    """
    random, num_clips = np.random.default_rng(0), len(other[0].targets)
    gains = []
    for _ in range(_DRAWS):
        seeds = random.integers(len(other), size=len(other))
        clips = random.integers(num_clips, size=num_clips)
        pairs = [(_again(challenger[s], clips, metric), _again(other[s], clips, metric)) for s in seeds]
        gains.append(np.mean([a - b for a, b in pairs]))
    return float(np.nanstd(gains))


def _again(judged: Judged, clips: np.ndarray, metric: str) -> float:
    return scores(judged.predictions[clips], judged.targets[clips], judged.labels)[metric]
