"""Losses: pure and vectorised over labels. ``predictions`` and ``targets`` are (B, L); a NaN target is left
out of its label alone. Each gives a scalar: the mean over the labels that have a target in the batch.

``complete`` promises that no target is NaN, which saves the search for them.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from emi_ray.recipe_schema import ObjectiveSettings

_EPSILON = 1e-8
_MARGIN = 1e-6


class Loss(Protocol):
    def __call__(self, predictions: Tensor, targets: Tensor, complete: bool = False, /) -> Tensor: ...


def ccc_loss(predictions: Tensor, targets: Tensor, complete: bool = False) -> Tensor:
    """1 - CCC (Lin 1989), with population moments; 1 for a label whose targets are all equal in the batch."""
    moments = _Moments(predictions, targets, complete)
    spread = moments.x_variance + moments.y_variance + moments.mean_difference.square()
    return moments.mean_over_labels(1.0 - 2.0 * moments.covariance / (spread + _EPSILON))


def pearson_loss(predictions: Tensor, targets: Tensor, complete: bool = False) -> Tensor:
    """1 - Pearson's correlation; 1 for a label whose targets are all equal in the batch."""
    moments = _Moments(predictions, targets, complete)
    spread = torch.sqrt(moments.x_variance * moments.y_variance + _EPSILON)
    return moments.mean_over_labels(1.0 - moments.covariance / spread)


def mse_loss(predictions: Tensor, targets: Tensor, complete: bool = False) -> Tensor:
    """Mean squared error."""
    return _mean_error(F.mse_loss, predictions, targets, complete)


def l1_loss(predictions: Tensor, targets: Tensor, complete: bool = False) -> Tensor:
    """Mean absolute error."""
    return _mean_error(F.l1_loss, predictions, targets, complete)


def huber_loss(predictions: Tensor, targets: Tensor, delta: float, complete: bool = False) -> Tensor:
    """Huber's loss: squared below ``delta``, linear above."""

    def error(x: Tensor, y: Tensor, reduction: str = "mean") -> Tensor:
        return F.huber_loss(x, y, delta=delta, reduction=reduction)

    return _mean_error(error, predictions, targets, complete)


def binomial_loss(predictions: Tensor, targets: Tensor, complete: bool = False) -> Tensor:
    """Mean negative log-likelihood a rater of "k of N raters saw it": cross-entropy of the share k / N.

    ``predictions`` are probabilities. What N is would change the weight of a clip alone, and is passed over.
    """
    return _mean_error(_cross_entropy, predictions, targets, complete)


def hurdle_loss(log_odds: Tensor, amount: Tensor, targets: Tensor, complete: bool = False) -> Tensor:
    """Cross-entropy of "anybody saw it" and, where somebody did, of the share that did (Mullahy 1986).

    Args:
        log_odds: (B, L), that the target is above 0.
        amount: (B, L), the probability a rater, given that.
    """

    def error(x: Tensor, y: Tensor, reduction: str = "mean") -> Tensor:
        errors = torch.where(y > 0, _cross_entropy(x, y, "none"), 0.0)
        return errors if reduction == "none" else errors.mean()

    return presence_loss(log_odds, targets, complete) + _mean_error(error, amount, targets, complete)


def presence_loss(log_odds: Tensor, targets: Tensor, complete: bool = False) -> Tensor:
    """Cross-entropy of "the label is above the low end of its range" (targets on the [0, 1] scale)."""

    def error(x: Tensor, y: Tensor, reduction: str = "mean") -> Tensor:
        return F.binary_cross_entropy_with_logits(x, (y > 0).to(x.dtype), reduction=reduction)

    return _mean_error(error, log_odds, targets, complete)


def normal_divergence(mean: Tensor, log_variance: Tensor, counted: Tensor) -> Tensor:
    """Kullback-Leibler divergence of diagonal normals (B, K) from the standard normal: the mean over the clips that
    ``counted`` (B,) bool names, 0 where it names none."""
    per_clip = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(dim=1)
    # Not per_clip[counted].mean(): a GPU's host would wait to learn the size.
    return per_clip.masked_fill(~counted, 0.0).sum() / counted.sum().clamp(min=1)


def build_objective(objective: ObjectiveSettings) -> Loss:
    """The weighted sum of the losses of predictions; losses of weight 0 cost nothing."""

    def huber(x: Tensor, y: Tensor, complete: bool = False) -> Tensor:
        return huber_loss(x, y, objective.huber_delta, complete)

    known: dict[str, Loss] = {
        "ccc": ccc_loss,
        "mse": mse_loss,
        "pearson": pearson_loss,
        "l1": l1_loss,
        "huber": huber,
        "binomial": binomial_loss,
    }
    parts = [(getattr(objective, name), loss) for name, loss in known.items() if getattr(objective, name) > 0]

    def combined(predictions: Tensor, targets: Tensor, complete: bool = False) -> Tensor:
        total = predictions.new_zeros(())
        for weight, loss in parts:
            total = total + weight * loss(predictions, targets, complete)
        return total

    return combined


class _Moments:
    """Population moments of each label over the clips that have a target for it."""

    def __init__(self, predictions: Tensor, targets: Tensor, complete: bool) -> None:
        self._scored: Tensor | None = None
        if complete and len(targets):
            self.y_variance, y_mean = torch.var_mean(targets, dim=0, correction=0)
            self.x_variance, x_mean = torch.var_mean(predictions, dim=0, correction=0)
            self.mean_difference = x_mean - y_mean
            self.covariance = (predictions * (targets - y_mean)).mean(dim=0)
            return
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
        if self._scored is None:
            return values.mean()
        return torch.where(self._scored, values, 0.0).sum() / self._scored.sum().clamp(min=1)


def _cross_entropy(probability: Tensor, share: Tensor, reduction: str = "mean") -> Tensor:
    inside = (
        _MARGIN + (1 - 2 * _MARGIN) * probability
    )  # the logarithm stays finite, and its gradient is not cut off
    return F.binary_cross_entropy(inside, share.clamp(0, 1), reduction=reduction)


def _mean_error(error: Callable[..., Tensor], predictions: Tensor, targets: Tensor, complete: bool) -> Tensor:
    if complete and len(targets):
        return error(predictions, targets)
    known = ~targets.isnan()
    errors = torch.where(known, error(predictions, targets.nan_to_num(), reduction="none"), 0.0)
    per_label = errors.sum(dim=0) / known.sum(dim=0).clamp(min=1)
    return per_label.sum() / known.any(dim=0).sum().clamp(min=1)
