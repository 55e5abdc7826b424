"""How several systems' predictions become one: their mean, or weights for each label that were fitted on clips which
none of them was trained on."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field
from scipy.optimize import nnls

from emi_ray.settings import Settings

Method = Literal["mean", "fitted"]

_PRIOR_CLIPS = 50
"""Fitted weights are drawn to equal ones, and those of a pattern of modalities to those of all clips, as strongly as
so many clips would draw them: members are alike, and rare patterns have few clips."""

_FEWEST_OF_PATTERN = 20


class EnsembleWeights(Settings):
    """Of M members and L labels; nested tuples so that they stand in a JSON file.

    Attributes:
        centre: (M, L) mean prediction of each member.
        bias: (L,) mean target.
        weight: (M, L), none negative, for patterns that have none of their own.
        patterns: by the modalities that a clip has, joined by commas, weights (M, L) of their own.
    """

    method: Method
    centre: tuple[tuple[float, ...], ...] = ()
    bias: tuple[float, ...] = ()
    weight: tuple[tuple[float, ...], ...] = ()
    patterns: dict[str, tuple[tuple[float, ...], ...]] = Field(default_factory=dict)


MEAN = EnsembleWeights(method="mean")


def combine(weights: EnsembleWeights, said: np.ndarray, patterns: Sequence[str]) -> np.ndarray:
    """One prediction (N, L) from those of the members.

    Args:
        said: (M, N, L), NaN where a member can read nothing of a clip: it then counts for nothing.
        patterns: (N,) which modalities each clip has.

    Returns:
        NaN for a clip that no member can read.
    """
    there = np.isfinite(said).all(axis=2)
    if weights.method == "mean":
        total = np.where(there[..., None], said, 0.0).sum(axis=0)
        result = total / np.maximum(there.sum(axis=0), 1)[:, None]
    else:
        moved = _moved(said, np.array(weights.centre))
        result = np.tile(np.array(weights.bias), (said.shape[1], 1))
        own = {pattern: np.array(weight) for pattern, weight in weights.patterns.items()}
        shared = np.array(weights.weight)
        for pattern in dict.fromkeys(patterns):
            rows = np.array([each == pattern for each in patterns])
            result[rows] += np.einsum("mnl,ml->nl", moved[:, rows], own.get(pattern, shared))
    return np.where(there.any(axis=0)[:, None], result, np.nan)


def fit_weights(said: np.ndarray, true: np.ndarray, patterns: Sequence[str]) -> EnsembleWeights:
    """Least squares with weights that are not negative, for each label, and for each pattern with enough clips.

    Args:
        said, patterns: as of :func:`combine`, of clips that no member learnt from.
        true: (N, L), NaN where unknown.
    """
    centre, bias = _known_mean(said.transpose(1, 0, 2)), _known_mean(true)
    moved = _moved(said, centre)
    equal = np.full(centre.shape, 1 / len(said))
    weight = _least_squares(moved, true - bias, equal, moved)
    own = {}
    for pattern in dict.fromkeys(patterns):
        rows = np.array([each == pattern for each in patterns])
        if rows.sum() >= _FEWEST_OF_PATTERN:
            own[pattern] = _tuples(_least_squares(moved[:, rows], true[rows] - bias, weight, moved))
    return EnsembleWeights(
        method="fitted",
        centre=_tuples(centre),
        bias=tuple(bias.tolist()),
        weight=_tuples(weight),
        patterns=own,
    )


def _least_squares(x: np.ndarray, y: np.ndarray, prior: np.ndarray, everything: np.ndarray) -> np.ndarray:
    """Weights (M, L) of x (M, N, L) for y (N, L), drawn to a prior; the scale of the draw is that of all clips."""
    weight = np.zeros_like(prior)
    for label in range(y.shape[1]):
        known = np.isfinite(y[:, label])
        pull = np.sqrt(_PRIOR_CLIPS * np.square(everything[:, :, label]).mean() + np.finfo(float).tiny)
        rows = np.concatenate([x[:, known, label].T, pull * np.eye(len(x))])
        weight[:, label] = nnls(rows, np.concatenate([y[known, label], pull * prior[:, label]]))[0]
    return weight


def _moved(said: np.ndarray, centre: np.ndarray) -> np.ndarray:
    return np.nan_to_num(said - centre[:, None])


def _known_mean(values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values)
    mean: np.ndarray = np.where(known, values, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    return mean


def _tuples(values: np.ndarray) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in values.tolist())
