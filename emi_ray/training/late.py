"""Weights of late fusion, from predictions of clips that their predictor has not seen in training.

Predictions of its own training clips would praise a model that has learnt them by heart (training r of .96
where new clips give .4). So the training clips are cut into folds; each member learns from all folds but one,
which stops it and which it then predicts. The official validation clips decide nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import nnls

from emi_ray.models.late_fusion import LateFusionRegressor
from emi_ray.training.rows import Rows

_RIDGE = 1e-3
"""Share of the predictions' own spread that is added against chance agreement of modalities."""


@dataclass(frozen=True)
class Unseen:
    """Predictions (N, L) of training clips by members that have not learnt from them; NaN where there is none."""

    values: np.ndarray


def cut_folds(rows: Rows, num_folds: int, seed: int) -> list[Rows]:
    """The training rows in folds: each in turn validates what the others train."""
    order = np.random.default_rng([seed, num_folds]).permutation(len(rows.train))
    fold = np.empty(len(order), dtype=np.int64)
    fold[order] = np.arange(len(order)) % num_folds
    return [Rows(rows.train[fold != k], rows.train[fold == k]) for k in range(num_folds)]


def set_late_weights(model: LateFusionRegressor, unseen: Sequence[Unseen], targets: np.ndarray) -> None:
    """Least squares with weights that are not negative: a modality that only harms a label is silent on it.

    Args:
        unseen: of each modality of the model, in their order, for the same N clips.
        targets: (N, L) on the [0, 1] scale; NaN where unknown.
    """
    num_labels = targets.shape[1]
    centre = np.stack([_known_mean(part.values) for part in unseen])
    moved = [np.nan_to_num(part.values - mean) for part, mean in zip(unseen, centre, strict=True)]
    weight, bias = np.zeros((len(unseen), num_labels)), _known_mean(targets)
    for label in range(num_labels):
        known = np.isfinite(targets[:, label])
        x = np.stack([part[known, label] for part in moved], axis=1)
        y = targets[known, label] - bias[label]
        spread = np.sqrt(_RIDGE * np.square(x).sum() / x.shape[1])
        padded = np.concatenate([x, spread * np.eye(x.shape[1])]), np.append(y, np.zeros(x.shape[1]))
        weight[:, label] = nnls(*padded)[0]
    model.set_weights(*(torch.from_numpy(part).float() for part in (weight, centre, bias)))


def _known_mean(values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values)
    return np.where(known, values, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
