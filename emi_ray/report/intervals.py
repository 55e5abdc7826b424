"""How sure a score is: percentile bootstrap over clips."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_MAX_RESAMPLES = 1000
_MIN_RESAMPLES = 200
_WEIGHTS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Interval:
    """A 95 % interval; both ends NaN where the score is not defined."""

    low: float
    high: float


@dataclass(frozen=True)
class PearsonIntervals:
    """Of each label, in order, and of their mean."""

    labels: tuple[Interval, ...]
    mean: Interval


def pearson_intervals(predicted: np.ndarray, true: np.ndarray, seed: int = 0) -> PearsonIntervals:
    """95 % percentile intervals of Pearson's r from resampled clips (Efron and Tibshirani 1993, chapter 13).

    A resample is a vector of multinomial weights, so that all labels of many resamples are one product of
    matrices. Very large splits get fewer resamples, at least 200. The mean is over the defined labels.

    Args:
        predicted: (N, L).
        true: (N, L), NaN where a clip has no such label.
    """
    known = ~np.isnan(true)
    counts = np.maximum(known.sum(axis=0), 1)
    x = np.where(known, predicted - np.where(known, predicted, 0).sum(axis=0) / counts, 0.0)
    y = np.where(known, true - np.where(known, true, 0).sum(axis=0) / counts, 0.0)
    moments = np.stack([known.astype(float), x, y, x * x, y * y, x * y])
    r = np.concatenate([_weighted_pearson(weights, moments) for weights in _resamples(len(true), seed)])
    defined = ~np.isnan(r)
    total = np.where(defined, r, 0).sum(axis=1)
    mean = np.divide(total, defined.sum(axis=1), out=np.full(len(r), np.nan), where=defined.any(axis=1))
    return PearsonIntervals(tuple(_interval(column) for column in r.T), _interval(mean))


def _resamples(num_clips: int, seed: int) -> Iterator[np.ndarray]:
    """Weights (R, N), some resamples at a time."""
    rng = np.random.default_rng(seed)
    total = int(np.clip(40_000_000 // num_clips, _MIN_RESAMPLES, _MAX_RESAMPLES))
    at_once = max(1, _WEIGHTS_AT_ONCE // num_clips)
    share = np.full(num_clips, 1 / num_clips)
    for start in range(0, total, at_once):
        size = min(at_once, total - start)
        yield rng.multinomial(num_clips, share, size=size).astype(float)


def _weighted_pearson(weights: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """r (R, L) from weights (R, N) and moments (6, N, L): 1, x, y, x², y², xy. NaN where a variance is 0."""
    count, x, y, xx, yy, xy = (weights @ moment for moment in moments)
    variance = np.maximum(count * xx - x * x, 0) * np.maximum(count * yy - y * y, 0)
    covariance = count * xy - x * y
    return np.divide(
        covariance, np.sqrt(variance), out=np.full(variance.shape, np.nan), where=variance > 1e-12
    )


def _interval(scores: np.ndarray) -> Interval:
    scores = scores[~np.isnan(scores)]
    if not len(scores):
        return Interval(np.nan, np.nan)
    low, high = np.percentile(scores, [2.5, 97.5])
    return Interval(float(low), float(high))
