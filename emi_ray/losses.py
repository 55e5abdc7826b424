"""Losses: pure and vectorised over labels. ``predictions`` and ``targets`` are (B, L); a NaN target is left
out of its label alone. Each gives a scalar: the mean over the labels that have a target in the batch.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from emi_ray.recipe import ObjectiveSettings

Loss = Callable[[Tensor, Tensor], Tensor]

_EPSILON = 1e-8


def ccc_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """1 - CCC (Lin 1989), with population moments; 1 for a label whose targets are all equal in the batch."""
    moments = _Moments(predictions, targets)
    spread = moments.x_variance + moments.y_variance + moments.mean_difference.square()
    return moments.mean_over_labels(1.0 - 2.0 * moments.covariance / (spread + _EPSILON))


def pearson_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """1 - Pearson's correlation; 1 for a label whose targets are all equal in the batch."""
    moments = _Moments(predictions, targets)
    spread = torch.sqrt(moments.x_variance * moments.y_variance + _EPSILON)
    return moments.mean_over_labels(1.0 - moments.covariance / spread)


def mse_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error."""
    return _mean_error(F.mse_loss, predictions, targets)


def l1_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """Mean absolute error."""
    return _mean_error(F.l1_loss, predictions, targets)


def huber_loss(predictions: Tensor, targets: Tensor, delta: float) -> Tensor:
    """Huber's loss: squared below ``delta``, linear above."""

    def error(x: Tensor, y: Tensor, reduction: str) -> Tensor:
        return F.huber_loss(x, y, delta=delta, reduction=reduction)

    return _mean_error(error, predictions, targets)


def build_objective(objective: ObjectiveSettings) -> Loss:
    """The weighted sum that a recipe asks for; losses of weight 0 cost nothing."""
    known: dict[str, Loss] = {
        "ccc": ccc_loss,
        "mse": mse_loss,
        "pearson": pearson_loss,
        "l1": l1_loss,
        "huber": lambda x, y: huber_loss(x, y, objective.huber_delta),
    }
    parts = [(getattr(objective, name), loss) for name, loss in known.items() if getattr(objective, name) > 0]

    def combined(predictions: Tensor, targets: Tensor) -> Tensor:
        total = predictions.new_zeros(())
        for weight, loss in parts:
            total = total + weight * loss(predictions, targets)
        return total

    return combined


class _Moments:
    """Population moments of each label over the clips that have a target for it."""

    def __init__(self, predictions: Tensor, targets: Tensor) -> None:
        known = ~targets.isnan()
        self._scored = known.any(dim=0)
        share = known / known.sum(dim=0).clamp(min=1)
        y = targets.nan_to_num()
        x_mean, y_mean = (predictions * share).sum(dim=0), (y * share).sum(dim=0)
        x_off, y_off = predictions - x_mean, y - y_mean
        self.mean_difference = x_mean - y_mean
        self.x_variance = (x_off.square() * share).sum(dim=0)
        self.y_variance = (y_off.square() * share).sum(dim=0)
        self.covariance = (x_off * y_off * share).sum(dim=0)

    def mean_over_labels(self, values: Tensor) -> Tensor:
        return torch.where(self._scored, values, 0.0).sum() / self._scored.sum().clamp(min=1)


def _mean_error(error: Callable[..., Tensor], predictions: Tensor, targets: Tensor) -> Tensor:
    known = ~targets.isnan()
    errors = torch.where(known, error(predictions, targets.nan_to_num(), reduction="none"), 0.0)
    per_label = errors.sum(dim=0) / known.sum(dim=0).clamp(min=1)
    return per_label.sum() / known.any(dim=0).sum().clamp(min=1)
