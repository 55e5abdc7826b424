"""The training loss of a recipe, computed from all outputs of a model."""

import torch
from torch import Tensor

from emi_ray.losses import build_objective, hurdle_loss, normal_divergence, presence_loss
from emi_ray.models.outputs import Outputs
from emi_ray.recipe.sections import ObjectiveSettings

_CORRELATIONS = ("ccc", "pearson")
_ERRORS = ("mse", "l1", "huber", "binomial")


class Criterion:
    """Computes the loss of a batch from outputs and targets.

    Losses of single modalities (branches, latent codes) leave out the clips that lack the modality.

    With ``objective.memory``, correlation losses are computed over the batch and the last predictions of the same
    epoch, because a correlation over 16 clips, most of them with label 0, is mostly noise. The earlier predictions
    carry no gradient. Over n earlier clips and b clips of the batch, the gradient of the loss would thus shrink by
    the factor b / (n + b), and other losses would gain weight. The gradient is therefore multiplied by (n + b) / b.
    """

    def __init__(self, objective: ObjectiveSettings, complete: bool) -> None:
        """Create the loss of an objective; ``complete`` says that no target of the training clips is NaN."""
        self._objective = objective
        self._complete = complete
        self._whole = build_objective(objective)
        # A user's own loss is computed with the errors, over the clips of the batch only.
        without_errors = {**dict.fromkeys(_ERRORS, 0.0), "loss": None}
        self._correlation = build_objective(objective.model_copy(update=without_errors))
        self._error = build_objective(objective.model_copy(update=dict.fromkeys(_CORRELATIONS, 0.0)))
        self._past: tuple[Tensor, Tensor] | None = None

    def start_epoch(self) -> None:
        """Discard the predictions of the previous epoch."""
        self._past = None

    def __call__(self, outputs: Outputs, targets: Tensor) -> Tensor:
        objective, complete = self._objective, self._complete
        loss = self._of_predictions(outputs.predictions, targets)
        # Clips that lack the modality get unknown targets, which every loss leaves out.
        for branch in outputs.branches:
            known_targets = targets.masked_fill(~branch.present[:, None], torch.nan)
            loss = loss + objective.auxiliary / len(outputs.branches) * self._whole(
                branch.values, known_targets, False
            )
        # hurdle_loss contains the presence loss, so at most one of the two is added.
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
            # The added term is 0, but multiplies the gradient by 1 + growth.
            known = predictions + growth * (predictions - predictions.detach())
            known, truth = torch.cat([self._past[0], known]), torch.cat([self._past[1], truth])
        # Only the last predictions are kept, so that memory and cost do not grow during an epoch.
        self._past = known.detach()[-size:], truth[-size:]
        correlation = self._correlation(known, truth, self._complete)
        return correlation + self._error(predictions, targets, self._complete)
