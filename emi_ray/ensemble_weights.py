"""Combination of the predictions of several systems: their mean, or a sum with fitted weights for each label.

The weights are fitted on clips that none of the systems was trained on.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field
from scipy.optimize import nnls

from emi_ray.settings import Settings

Method = Literal["mean", "fitted"]

_PRIOR_CLIPS = 50
"""Strength of the shrinkage of fitted weights, as a number of clips.

Weights are shrunk towards equal weights, because predictions of the members are similar and least squares would be
unstable. Weights of a pattern of modalities are shrunk towards those of all clips, because rare patterns have few
clips.
"""

_FEWEST_OF_PATTERN = 20


class EnsembleWeights(Settings):
    """Weights of M members for L labels, as nested tuples that can be stored in a JSON file.

    Attributes:
        method: ``mean`` or ``fitted``; the other attributes are only used for ``fitted``.
        centre: (M, L) mean prediction of each member.
        bias: (L,) mean target.
        weight: (M, L) non-negative weights for patterns that are not in ``patterns``.
        patterns: weights (M, L) for single patterns; a pattern is the modalities of a clip, joined by commas.
    """

    method: Method
    centre: tuple[tuple[float, ...], ...] = ()
    bias: tuple[float, ...] = ()
    weight: tuple[tuple[float, ...], ...] = ()
    patterns: dict[str, tuple[tuple[float, ...], ...]] = Field(default_factory=dict)


MEAN = EnsembleWeights(method="mean")


def combine(weights: EnsembleWeights, predictions: np.ndarray, patterns: Sequence[str]) -> np.ndarray:
    """Combine the predictions of the members.

    Args:
        weights: the weights of the members.
        predictions: (M, N, L) predictions; NaN if a clip has no input of a member, which is then left out.
        patterns: (N,) the modalities of each clip, joined by commas.

    Returns:
        (N, L) predictions; NaN for a clip without input of any member.
    """
    # (M, N): which members have an input of which clips.
    there = np.isfinite(predictions).all(axis=2)
    if weights.method == "mean":
        total = np.where(there[..., None], predictions, 0.0).sum(axis=0)
        result = total / np.maximum(there.sum(axis=0), 1)[:, None]
    else:
        moved = _moved(predictions, np.array(weights.centre))
        # (N, L): the mean target, to which the members add their weighted deviations.
        result = np.tile(np.array(weights.bias), (predictions.shape[1], 1))
        by_pattern = {pattern: np.array(weight) for pattern, weight in weights.patterns.items()}
        shared = np.array(weights.weight)
        for pattern in dict.fromkeys(patterns):
            rows = np.array([each == pattern for each in patterns])
            result[rows] += np.einsum("mnl,ml->nl", moved[:, rows], by_pattern.get(pattern, shared))
    return np.where(there.any(axis=0)[:, None], result, np.nan)


def fit_weights(predictions: np.ndarray, true: np.ndarray, patterns: Sequence[str]) -> EnsembleWeights:
    """Fit weights by non-negative least squares, for each label, and separately for each pattern with enough clips.

    Args:
        predictions, patterns: as in :func:`combine`, for clips that no member was trained on.
        true: (N, L) true values, NaN for unknown ones.
    """
    centre, bias = _known_mean(predictions.transpose(1, 0, 2)), _known_mean(true)
    moved = _moved(predictions, centre)
    equal = np.full(centre.shape, 1 / len(predictions))
    # Weights of all clips are shrunk towards equal ones; those of a pattern, below, towards these.
    weight = _least_squares(moved, true - bias, equal, moved)
    by_pattern = {}
    for pattern in dict.fromkeys(patterns):
        rows = np.array([each == pattern for each in patterns])
        if rows.sum() >= _FEWEST_OF_PATTERN:
            by_pattern[pattern] = _tuples(_least_squares(moved[:, rows], true[rows] - bias, weight, moved))
    return EnsembleWeights(
        method="fitted",
        centre=_tuples(centre),
        bias=tuple(bias.tolist()),
        weight=_tuples(weight),
        patterns=by_pattern,
    )


def _least_squares(x: np.ndarray, y: np.ndarray, prior: np.ndarray, everything: np.ndarray) -> np.ndarray:
    """Fit weights (M, L) of ``x`` (M, N, L) for ``y`` (N, L), shrunk towards ``prior`` (M, L).

    ``everything`` are the predictions of all clips, which set the scale of the shrinkage.
    """
    weight = np.zeros_like(prior)
    for label in range(y.shape[1]):
        known = np.isfinite(y[:, label])
        # Ridge regression as extra rows: pull² is the mean square of a prediction times the number of prior clips.
        pull = np.sqrt(_PRIOR_CLIPS * np.square(everything[:, :, label]).mean() + np.finfo(float).tiny)
        rows = np.concatenate([x[:, known, label].T, pull * np.eye(len(x))])
        weight[:, label] = nnls(rows, np.concatenate([y[known, label], pull * prior[:, label]]))[0]
    return weight


def _moved(predictions: np.ndarray, centre: np.ndarray) -> np.ndarray:
    # A member without input is 0, its mean, and so adds nothing.
    return np.nan_to_num(predictions - centre[:, None])


def _known_mean(values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values)
    mean: np.ndarray = np.where(known, values, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    return mean


def _tuples(values: np.ndarray) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in values.tolist())
