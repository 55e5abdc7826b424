"""Loss functions, without state and vectorised over labels.

``predictions`` and ``targets`` are (B, L) on the [0, 1] scale. A target that is NaN is unknown: the clip is left out
of the loss of that label only. Each function returns a scalar, the mean over the labels that have at least one known
target in the batch. ``complete=True`` promises that no target is NaN, which allows a faster computation.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from emi_ray.custom_code import import_custom, require_same
from emi_ray.errors import UserError
from emi_ray.recipe.sections import ObjectiveSettings

# Keeps losses and their gradients finite for a label that is constant in the batch.
_EPSILON = 1e-8
_MARGIN = 1e-6


class Loss(Protocol):
    def __call__(self, predictions: Tensor, targets: Tensor, complete: bool = False, /) -> Tensor: ...


def ccc_loss(predictions: Tensor, targets: Tensor, complete: bool = False) -> Tensor:
    """Compute 1 - CCC, the concordance correlation coefficient (Lin 1989), with population moments.

    The loss of a label whose targets are all equal in the batch is 1.
    """
    moments = _Moments(predictions, targets, complete)
    spread = moments.x_variance + moments.y_variance + moments.mean_difference.square()
    return moments.mean_over_labels(1.0 - 2.0 * moments.covariance / (spread + _EPSILON))


def pearson_loss(predictions: Tensor, targets: Tensor, complete: bool = False) -> Tensor:
    """Compute 1 - Pearson's correlation; 1 for a label whose targets are all equal in the batch."""
    moments = _Moments(predictions, targets, complete)
    # Epsilon is inside of the root, whose gradient is infinite at 0.
    spread = torch.sqrt(moments.x_variance * moments.y_variance + _EPSILON)
    return moments.mean_over_labels(1.0 - moments.covariance / spread)


def mse_loss(predictions: Tensor, targets: Tensor, complete: bool = False) -> Tensor:
    """Compute the mean squared error."""
    return _mean_error(F.mse_loss, predictions, targets, complete)


def l1_loss(predictions: Tensor, targets: Tensor, complete: bool = False) -> Tensor:
    """Compute the mean absolute error."""
    return _mean_error(F.l1_loss, predictions, targets, complete)


def huber_loss(predictions: Tensor, targets: Tensor, delta: float, complete: bool = False) -> Tensor:
    """Compute Huber's loss: quadratic for errors below ``delta``, linear above."""

    def error(x: Tensor, y: Tensor, reduction: str = "mean") -> Tensor:
        return F.huber_loss(x, y, delta=delta, reduction=reduction)

    return _mean_error(error, predictions, targets, complete)


def binomial_loss(predictions: Tensor, targets: Tensor, complete: bool = False) -> Tensor:
    """Compute the binomial negative log-likelihood of labels that are shares of raters.

    If k of N raters saw an emotion, this is the cross-entropy of the share k / N, averaged over raters.
    ``predictions`` are probabilities. N would only change the weight of a clip; it is not known here and is ignored.
    """
    return _mean_error(_cross_entropy, predictions, targets, complete)


def hurdle_loss(log_odds: Tensor, amount: Tensor, targets: Tensor, complete: bool = False) -> Tensor:
    """Compute the negative log-likelihood of a hurdle model (Mullahy 1986) of shares of raters.

    Most labels are exactly 0: nobody saw the emotion. One distribution for all values would have to fit these zeros
    too. A hurdle model therefore has two parts: whether any rater saw the emotion, and, only over clips where
    somebody did, the share of raters who did. The loss is the sum of the two cross-entropies.

    Args:
        log_odds: (B, L) log odds that the target is above 0.
        amount: (B, L) probability that a rater sees the emotion, given that the target is above 0.
        targets: (B, L) shares of raters.
        complete: whether no target is NaN.
    """

    def error(x: Tensor, y: Tensor, reduction: str = "mean") -> Tensor:
        # The mean is over all clips, so that a clip above 0 has the same weight in every batch.
        errors = torch.where(y > 0, _cross_entropy(x, y, "none"), 0.0)
        return errors if reduction == "none" else errors.mean()

    return presence_loss(log_odds, targets, complete) + _mean_error(error, amount, targets, complete)


def presence_loss(log_odds: Tensor, targets: Tensor, complete: bool = False) -> Tensor:
    """Compute the cross-entropy of whether a label is above the low end of its range, which is target 0."""

    def error(x: Tensor, y: Tensor, reduction: str = "mean") -> Tensor:
        return F.binary_cross_entropy_with_logits(x, (y > 0).to(x.dtype), reduction=reduction)

    return _mean_error(error, log_odds, targets, complete)


def normal_divergence(mean: Tensor, log_variance: Tensor, counted: Tensor) -> Tensor:
    """Compute the Kullback-Leibler divergence of diagonal normal distributions from the standard normal.

    Args:
        mean, log_variance: (B, K) parameters for each clip.
        counted: (B,) bool, the clips to average over.

    Returns:
        The mean over the counted clips; 0 if there are none.
    """
    # (B,): the sum over the K dimensions, which are independent.
    per_clip = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(dim=1)
    # per_clip[counted].mean() would make the host wait for the GPU, because the result's size depends on the data.
    return per_clip.masked_fill(~counted, 0.0).sum() / counted.sum().clamp(min=1)


def build_objective(objective: ObjectiveSettings) -> Loss:
    """Build the weighted sum of the losses; losses with weight 0 are not computed."""

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

    if objective.loss is not None:
        parts.append((objective.loss_weight, _checked(objective.loss, custom_loss(objective))))

    def combined(predictions: Tensor, targets: Tensor, complete: bool = False) -> Tensor:
        total = predictions.new_zeros(())
        for weight, loss in parts:
            total = total + weight * loss(predictions, targets, complete)
        return total

    return combined


def custom_loss(objective: ObjectiveSettings) -> Callable[[Tensor, Tensor], Any]:
    """Import the user's own loss of an objective that names one.

    Raises:
        UserError: it cannot be imported, cannot be called, or its source differs from the recorded hash.
    """
    assert objective.loss is not None
    found = import_custom(objective.loss, "objective.loss")
    if not callable(found):
        raise UserError(f"objective.loss = '{objective.loss}' is not a function of predictions and targets.")
    require_same(objective.loss, objective.loss_code, found, "objective.loss")
    return found


def _checked(name: str, function: Callable[[Tensor, Tensor], Any]) -> Loss:
    """Return the user's loss as one that takes ``complete``, and refuse what it returns unless it is a scalar."""

    def loss(predictions: Tensor, targets: Tensor, complete: bool = False) -> Tensor:
        value = function(predictions, targets)
        if not isinstance(value, Tensor) or value.ndim:
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise UserError(f"objective.loss = '{name}' returned {got}: return a tensor without dimensions.")
        return value

    return loss


class _Moments:
    """Population moments (L,) of each label over the clips with a known target."""

    def __init__(self, predictions: Tensor, targets: Tensor, complete: bool) -> None:
        self._scored: Tensor | None = None
        # Without unknown targets two fused kernels are enough. An empty batch takes the general path, which gives
        # 0.
        if complete and len(targets):
            self.y_variance, y_mean = torch.var_mean(targets, dim=0, correction=0)
            self.x_variance, x_mean = torch.var_mean(predictions, dim=0, correction=0)
            self.mean_difference = x_mean - y_mean
            # One centred factor is enough: the mean of (y - y_mean) is 0.
            self.covariance = (predictions * (targets - y_mean)).mean(dim=0)
            return
        known = ~targets.isnan()
        self._scored = known.any(dim=0)
        # (B, L): weights that sum to 1 over the known clips of each label.
        share = known / known.sum(dim=0).clamp(min=1)
        # A NaN that is only multiplied by 0 would still be NaN, also in the gradient.
        y = targets.nan_to_num()
        x_mean, y_mean = (predictions * share).sum(dim=0), (y * share).sum(dim=0)
        x_off, y_off = predictions - x_mean, y - y_mean
        self.mean_difference = x_mean - y_mean
        self.x_variance = (x_off.square() * share).sum(dim=0)
        self.y_variance = (y_off.square() * share).sum(dim=0)
        self.covariance = (x_off * y_off * share).sum(dim=0)

    def mean_over_labels(self, values: Tensor) -> Tensor:
        """Return the mean of ``values`` (L,) over the labels with at least one known target."""
        if self._scored is None:
            return values.mean()
        return torch.where(self._scored, values, 0.0).sum() / self._scored.sum().clamp(min=1)


def _cross_entropy(probability: Tensor, share: Tensor, reduction: str = "mean") -> Tensor:
    # Keep probabilities away from 0 and 1 so that the logarithm is finite. Clamping would make the gradient 0 there.
    inside = _MARGIN + (1 - 2 * _MARGIN) * probability
    return F.binary_cross_entropy(inside, share.clamp(0, 1), reduction=reduction)


def _mean_error(error: Callable[..., Tensor], predictions: Tensor, targets: Tensor, complete: bool) -> Tensor:
    if complete and len(targets):
        return error(predictions, targets)
    known = ~targets.isnan()
    # where alone does not help: its gradient is NaN if the unused branch is.
    errors = torch.where(known, error(predictions, targets.nan_to_num(), reduction="none"), 0.0)
    per_label = errors.sum(dim=0) / known.sum(dim=0).clamp(min=1)
    return per_label.sum() / known.any(dim=0).sum().clamp(min=1)
