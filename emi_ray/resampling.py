"""Confidence intervals and significance of scores: a bootstrap over groups of clips (people) and over seeds.

Clips of one person are alike, so a thousand clips of fifty people carry less information than a thousand clips of a
thousand people. The bootstrap therefore resamples whole groups, never single clips of a group. If a corpus names no
groups, every clip is a group of its own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
import pandas as pd
from scipy import stats

from emi_ray.metrics import is_broken, is_constant

_RESAMPLES = 2000
_RESAMPLES_OF_MANY = 1000
_MANY = 2000
"""Number of groups from which fewer resamples are drawn: with many groups, resamples differ less."""
_WEIGHTS_AT_ONCE = 4_000_000
_FEWEST_DEFINED = 100
_CONSTANT = 1e-12
"""Variance below which values count as constant; the values are standardised to variance 1."""


@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval; both ends are NaN if the score is undefined."""

    low: float
    high: float


UNKNOWN_INTERVAL = Interval(np.nan, np.nan)


@dataclass(frozen=True)
class PearsonIntervals:
    """Intervals of Pearson's r for each label and for the mean over labels, from resampling ``num_groups`` groups."""

    labels: tuple[Interval, ...]
    mean: Interval
    num_groups: int


@dataclass(frozen=True)
class Difference:
    """A difference between the scores of two systems: value, 95 % interval, standard error, two-sided p-value.

    All are NaN if a score is undefined.
    """

    value: float
    low: float
    high: float
    error: float
    p_value: float


def codes_of(groups: Sequence[str | None] | np.ndarray | None, num_clips: int) -> np.ndarray:
    """Return the group number (N,) of each clip, counted from 0; a clip without a group is a group of its own."""
    if groups is None:
        return np.arange(num_clips)
    names = [f"clip {row}" if name is None else f"group {name}" for row, name in enumerate(groups)]
    return pd.factorize(np.array(names, dtype=object))[0].astype(np.int64)


def draw_rows(random: np.random.Generator, codes: np.ndarray) -> np.ndarray:
    """Draw as many groups as there are, with replacement, and return the rows of all drawn groups."""
    order = np.argsort(codes, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(codes))[:-1])
    return np.concatenate([members[group] for group in random.integers(len(members), size=len(members))])


def pearson_intervals(
    predicted: np.ndarray, true: np.ndarray, codes: np.ndarray | None = None, seed: int = 0
) -> PearsonIntervals:
    """Compute 95 % percentile intervals of Pearson's r by resampling groups (Efron and Tibshirani 1993, chapter 13).

    The percentiles are a little wider than 2.5 and 97.5, by Student's t: a plain bootstrap interval is too narrow for
    few groups (the expanded percentile interval of Hesterberg 2015, "What Teachers Should Know About the Bootstrap").
    Undefined and constant values count as in :func:`emi_ray.metrics.pearson`: a label with constant targets has no
    interval and is not in the mean; constant predictions have r = 0. Resamples in which the targets of a label are
    constant are left out, for this label and for the mean.

    Args:
        predicted: (N, L).
        true: (N, L), NaN for unknown values.
        codes: (N,) group of each clip, from :func:`codes_of`; None: every clip is a group of its own.
        seed: random seed of the resamples.
    """
    codes = np.arange(len(true)) if codes is None else codes
    moments = GroupMoments(predicted, true, codes)
    draws = [moments.pearson(weights) for weights in _resamples(moments.num_groups, seed)]
    r = np.concatenate([np.empty((0, true.shape[1])), *draws])
    known = [moments.groups_with(label) for label in range(true.shape[1])]
    labels = tuple(_percentiles(values, number) for values, number in zip(r.T, known, strict=True))
    mean = _percentiles(moments.mean(r), moments.num_groups)
    return PearsonIntervals(labels, mean, moments.num_groups)


class GroupMoments:
    """Sums over the clips of each group. Pearson's r of all resamples follows from them by matrix products."""

    def __init__(self, predicted: np.ndarray, true: np.ndarray, codes: np.ndarray) -> None:
        """``predicted`` and ``true`` (N, L), ``codes`` (N,)."""
        known = np.isfinite(true)
        self.scored = ~is_constant(np.where(known, true, np.nan), known)
        self.broken = is_broken(predicted, true)
        x, y = _standardised(predicted, known), _standardised(true, known)
        self.num_groups = int(codes.max(initial=-1)) + 1
        parts = [known.astype(float), x, y, x * x, y * y, x * y]
        self._sums = np.zeros((len(parts), self.num_groups, true.shape[1]))
        for total, part in zip(self._sums, parts, strict=True):
            np.add.at(total, codes, part)

    def groups_with(self, label: int) -> int:
        """Return how many groups have a known target of a label."""
        return int((self._sums[0, :, label] > 0).sum())

    def pearson(self, weights: np.ndarray) -> np.ndarray:
        """Compute r (R, L) of resamples; ``weights`` (R, G) says how often each group was drawn. NaN if undefined."""
        count, x, y, xx, yy, xy = (weights @ total for total in self._sums)
        squared = np.maximum(count, 1) ** 2
        x_variance, y_variance = (count * xx - x * x) / squared, (count * yy - y * y) / squared
        varies = (x_variance > _CONSTANT) & (y_variance > _CONSTANT)
        spread = np.sqrt(np.where(varies, x_variance * y_variance, 1.0))
        r = np.where(varies, (count * xy - x * y) / squared / spread, 0.0)
        undefined = ~self.scored | self.broken | (y_variance <= _CONSTANT)
        return np.where(undefined, np.nan, np.clip(r, -1.0, 1.0))

    def mean(self, r: np.ndarray) -> np.ndarray:
        """Average r (R, L) over the labels that are defined on the whole sample; (R,), NaN if one of them is NaN."""
        if not self.scored.any() or self.broken[self.scored].any():
            return np.full(len(r), np.nan)
        return r[:, self.scored].mean(axis=1)


@dataclass(frozen=True)
class SampledScores:
    """Scores of one system by seed and label; the last column is the mean over labels.

    Attributes:
        whole: (S, L + 1) scores on all clips.
        draws: (S, R, L + 1) scores on the resamples, which are the same for all systems on the same clips.
        num_groups: number of groups that are resampled.
    """

    whole: np.ndarray
    draws: np.ndarray
    num_groups: int


def sample_scores(
    predicted: Sequence[np.ndarray], true: np.ndarray, codes: np.ndarray, seed: int = 0
) -> SampledScores:
    """Compute Pearson's r of each seed of a system on resampled groups, as input of :func:`score_difference`.

    Each resample has one group less than the sample, which makes the variance over resamples unbiased.

    Args:
        predicted: (N, L) for each seed.
        true: (N, L), NaN for unknown values.
        codes: (N,) group of each clip, from :func:`codes_of`.
        seed: random seed of the resamples; the same one for all systems that are compared.
    """
    moments = [GroupMoments(each, true, codes) for each in predicted]
    num_groups = moments[0].num_groups
    whole = _with_mean(moments, np.ones((1, num_groups)))[:, 0]
    draws = [_with_mean(moments, weights) for weights in _resamples(num_groups, seed, max(num_groups - 1, 1))]
    return SampledScores(whole, np.concatenate(draws, axis=1), num_groups)


def score_difference(
    first: SampledScores, second: SampledScores, *, paired_seeds: bool, largest: float = 2.0
) -> list[Difference]:
    """Compute first minus second score on the same clips: for each label, then for the mean over labels.

    The score of a system is the mean over its seeds. The variance of a difference has two parts. The first is the
    variance over resamples of groups. Both systems use the same resamples (paired bootstrap), so that the difficulty
    of the clips, which affects both alike, cancels. The second is the variance of the mean over seeds, less its part
    that comes from the clips, which the first contains already. Interval and p-value are Student's, with the degrees
    of freedom of Welch and Satterthwaite, because there are few seeds. The seed variance of a single seed is unknown.

    Args:
        paired_seeds: whether both systems have the same seeds in the same order.
        largest: the largest absolute difference, at which intervals end; 2 for two correlations.
    """
    value = first.whole.mean(axis=0) - second.whole.mean(axis=0)
    draws = first.draws.mean(axis=0) - second.draws.mean(axis=0)
    if paired_seeds:
        sides = [(first.whole - second.whole, first.draws - second.draws)]
    else:
        sides = [(first.whole, first.draws), (second.whole, second.draws)]
    parts = [(_variance_of_seeds(*side), len(side[0]) - 1) for side in sides if len(side[0]) > 1]
    return [
        _difference(value[i], draws[:, i], [(v[i], df) for v, df in parts], first.num_groups, largest)
        for i in range(len(value))
    ]


def score_estimate(system: SampledScores) -> list[Difference]:
    """Compute the score of one system as its :func:`score_difference` from 0: for each label, then for the mean."""
    nothing = SampledScores(
        np.zeros_like(system.whole[:1]), np.zeros_like(system.draws[:1]), system.num_groups
    )
    return score_difference(system, nothing, paired_seeds=False, largest=1.0)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for multiple comparisons (Holm 1979); NaN stays NaN and does not count as a comparison.

    Holm's method controls the probability of any false positive, like Bonferroni's, and is more powerful.
    """
    p = np.asarray(p_values, dtype=float)
    order = [int(index) for index in np.argsort(p) if not np.isnan(p[index])]
    corrected, highest = np.full(len(p), np.nan), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p[index]))
        corrected[index] = highest
    return corrected.tolist()


def _standardised(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Standardise known values to mean 0 and variance 1, so that sums of squares keep their precision whatever the
    range; unknown and constant values become 0."""
    counts = np.maximum(known.sum(axis=0), 1)
    known_values = np.where(known & np.isfinite(values), values, 0.0).astype(np.float64)
    off = np.where(known, known_values - known_values.sum(axis=0) / counts, 0.0)
    off /= np.maximum(np.abs(off).max(axis=0, initial=0.0), np.finfo(float).tiny)
    deviation = np.sqrt((off**2).sum(axis=0) / counts)
    varies = ~is_constant(values, known) & (deviation > 0)
    return np.where(varies, off / np.where(varies, deviation, 1.0), 0.0)


def _resamples(num_groups: int, seed: int, size: int | None = None) -> Iterator[np.ndarray]:
    """Yield how often each group is drawn, (R, G), for several resamples at a time to limit memory."""
    random = np.random.default_rng(seed)
    if not num_groups:
        return
    at_once = max(1, _WEIGHTS_AT_ONCE // num_groups)
    share = np.full(num_groups, 1 / num_groups)
    total = _RESAMPLES if num_groups <= _MANY else _RESAMPLES_OF_MANY
    for start in range(0, total, at_once):
        drawn = random.multinomial(size or num_groups, share, size=min(at_once, total - start))
        yield drawn.astype(float)


def _percentiles(scores: np.ndarray, num_groups: int) -> Interval:
    scores = scores[~np.isnan(scores)]
    if len(scores) < _FEWEST_DEFINED or num_groups < 2:
        return UNKNOWN_INTERVAL
    # A percentile interval is too narrow for few groups: widen it as a t interval is wider than a normal one.
    wider = sqrt(num_groups / (num_groups - 1)) * stats.t.ppf(0.975, num_groups - 1)
    tail = 100 * stats.norm.cdf(-wider)
    low, high = np.percentile(scores, [tail, 100 - tail])
    return Interval(float(low), float(high))


def _with_mean(side: Sequence[GroupMoments], weights: np.ndarray) -> np.ndarray:
    """Compute r of each seed, resample and label, with the mean over labels as last column: (S, R, L + 1)."""
    scores = [moments.pearson(weights) for moments in side]
    pairs = zip(side, scores, strict=True)
    return np.stack([np.column_stack([r, moments.mean(r)]) for moments, r in pairs])


def _variance_of_seeds(whole: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Compute the variance (L + 1,) of the mean over seeds, without the part that is due to the clips.

    ``whole`` is (S, L + 1), ``draws`` (S, R, L + 1). The clips' part is estimated as the variance over resamples of
    single seeds minus that of their mean.
    """
    num_seeds = len(whole)
    known = np.where(np.isnan(draws).any(axis=0, keepdims=True), np.nan, draws)
    enough = (~np.isnan(known[0])).sum(axis=0) > 1
    known = np.where(enough, known, 0.0)
    each = np.nanvar(known, axis=1, ddof=1).mean(axis=0)
    together = np.nanvar(known.mean(axis=0), axis=0, ddof=1)
    of_clips = (each - together) / (num_seeds - 1)
    return np.maximum(whole.var(axis=0, ddof=1) / num_seeds - of_clips, 0.0)


def _difference(
    value: float, draws: np.ndarray, seed_parts: Sequence[tuple[float, int]], num_groups: int, largest: float
) -> Difference:
    draws = draws[~np.isnan(draws)]
    if len(draws) < _FEWEST_DEFINED or np.isnan(value) or num_groups < 2:
        return Difference(float(value), np.nan, np.nan, np.nan, np.nan)
    parts = [(float(draws.var(ddof=1)), num_groups - 1), *seed_parts]
    total = sum(variance for variance, _ in parts)
    if total <= np.finfo(float).tiny:
        return Difference(float(value), float(value), float(value), 0.0, float(value == 0))
    # Few groups or seeds estimate their variance poorly; the degrees of freedom weigh this (Welch and Satterthwaite).
    freedom = total**2 / sum(v**2 / df for v, df in parts)
    error, reach = sqrt(total), stats.t.ppf(0.975, freedom) * sqrt(total)
    p_value = 2 * stats.t.sf(abs(value) / error, freedom)
    low, high = np.clip([value - reach, value + reach], -largest, largest)
    return Difference(float(value), float(low), float(high), error, float(p_value))
