"""The objective of a recipe, over all that a model puts out."""

import torch
from torch import Tensor

from emi_ray.losses import build_objective, hurdle_loss, normal_divergence, presence_loss
from emi_ray.models.outputs import Outputs
from emi_ray.recipe_schema import ObjectiveSettings

_CORRELATIONS = ("ccc", "pearson")
_ERRORS = ("mse", "l1", "huber", "binomial")


class Criterion:
    """Outputs and targets of one batch → loss. Clips that lack a modality are left out of what is said of it alone.

    With ``objective.memory`` correlation losses count in the last predictions of the same epoch beside the
    batch: a correlation over 16 clips, most of them zero, is mostly noise. The past carries no gradient. A clip of
    the batch counts all the same as it would without it: over n past and b clips its gradient would be b / (n + b)
    of that, against which the other losses would grow.
    """

    def __init__(self, objective: ObjectiveSettings, complete: bool) -> None:
        """``complete``: no target of the training clips is NaN."""
        self._objective = objective
        self._complete = complete
        self._whole = build_objective(objective)
        self._correlation = build_objective(objective.model_copy(update=dict.fromkeys(_ERRORS, 0.0)))
        self._error = build_objective(objective.model_copy(update=dict.fromkeys(_CORRELATIONS, 0.0)))
        self._past: tuple[Tensor, Tensor] | None = None

    def start_epoch(self) -> None:
        """Forget the predictions of the epoch before."""
        self._past = None

    def __call__(self, outputs: Outputs, targets: Tensor) -> Tensor:
        objective, complete = self._objective, self._complete
        loss = self._of_predictions(outputs.predictions, targets)
        for branch in outputs.branches:
            having = targets.masked_fill(~branch.present[:, None], torch.nan)
            loss = loss + objective.auxiliary / len(outputs.branches) * self._whole(
                branch.values, having, False
            )
        if outputs.amount is not None and outputs.log_odds is not None:
            loss = loss + objective.hurdle * hurdle_loss(outputs.log_odds, outputs.amount, targets, complete)
        elif outputs.log_odds is not None:
            loss = loss + objective.zero_inflated * presence_loss(outputs.log_odds, targets, complete)
        for latent in outputs.latents:
            mean, log_variance = latent.values.chunk(2, dim=1)
            loss = loss + objective.latent_prior * normal_divergence(mean, log_variance, latent.present)
        return loss

    def _of_predictions(self, predictions: Tensor, targets: Tensor) -> Tensor:
        size = self._objective.memory
        if not size:
            return self._whole(predictions, targets, self._complete)
        known, truth = predictions, targets
        if self._past is not None:
            growth = len(self._past[0]) / len(predictions)
            known = predictions + growth * (
                predictions - predictions.detach()
            )  # the same, a steeper gradient
            known, truth = torch.cat([self._past[0], known]), torch.cat([self._past[1], truth])
        self._past = known.detach()[-size:], truth[-size:]
        correlation = self._correlation(known, truth, self._complete)
        return correlation + self._error(predictions, targets, self._complete)
