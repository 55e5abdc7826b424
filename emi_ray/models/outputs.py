"""The outputs of a regressor for a batch of B clips and L labels, and its parameter groups."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from emi_ray.recipe.sections import ObjectiveSettings


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters whose learning rate is ``lr_ratio`` times the recipe's."""

    parameters: list[nn.Parameter]
    lr_ratio: float = 1.0


OutputKind = Literal["linear", "zero_inflated", "binomial", "hurdle"]
"""How the numbers of the last layer become predictions; see :meth:`Targets.read`."""


@dataclass(frozen=True)
class Targets:
    """The outputs that a model must have.

    Attributes:
        num_labels: number of labels.
        kind: how the last layer's numbers become predictions.
        branches: whether each modality also predicts alone, for auxiliary supervision.
    """

    num_labels: int
    kind: OutputKind = "linear"
    branches: bool = False

    @classmethod
    def of(cls, num_labels: int, objective: ObjectiveSettings) -> "Targets":
        """Return the outputs that an objective needs."""
        kind: OutputKind = "linear"
        if objective.hurdle > 0:
            kind = "hurdle"
        elif objective.binomial > 0:
            kind = "binomial"
        elif objective.zero_inflated > 0:
            kind = "zero_inflated"
        return cls(num_labels, kind, objective.auxiliary > 0)

    def last_layer(self, width: int) -> nn.Linear:
        """Build the last layer, whose output :meth:`read` interprets.

        The initial biases make predicted probabilities small, because few raters see a given emotion.
        """
        # Of 2L columns, the first L are the log odds of presence, the others the amounts.
        layer = nn.Linear(width, self.num_labels * (2 if self.kind in ("zero_inflated", "hurdle") else 1))
        if self.kind in _STARTS:
            with torch.no_grad():
                # (1 or 2, L): one initial value for all labels of a block of columns.
                layer.bias.view(-1, self.num_labels).copy_(torch.tensor(_STARTS[self.kind])[:, None])
        return layer

    def branch(self, width: int) -> nn.Module:
        """Build the head that predicts from one modality alone, for auxiliary supervision."""
        layer = nn.Linear(width, self.num_labels)
        # Log-likelihood losses need a probability; a branch has no separate presence.
        return layer if self.kind in ("linear", "zero_inflated") else nn.Sequential(layer, nn.Sigmoid())

    def read(self, raw: Tensor) -> "Outputs":
        """Turn the numbers of the last layer (B, L or 2L) into predictions.

        ``linear``: the numbers are the predictions. ``binomial``: they are log odds (logits) of the predictions.
        ``zero_inflated`` and ``hurdle``: the prediction is the probability of a label above zero, times its amount if
        it is above zero. The amount is a linear output for ``zero_inflated`` and a probability for ``hurdle``.
        """
        if self.kind == "linear":
            return Outputs(raw)
        if self.kind == "binomial":
            return Outputs(torch.sigmoid(raw))
        log_odds, amount = raw.chunk(2, dim=1)
        if self.kind == "zero_inflated":
            return Outputs(torch.sigmoid(log_odds) * amount, log_odds)
        chance = torch.sigmoid(amount)
        return Outputs(torch.sigmoid(log_odds) * chance, log_odds, chance)


_STARTS = {"binomial": [-2.0], "hurdle": [0.0, -1.0]}
"""Initial biases of the last layer, in log odds: one value for each L columns of its output."""


@dataclass(frozen=True)
class Part:
    """Outputs for one modality.

    Attributes:
        values: (B, K); meaningless for clips that lack the modality, which all losses leave out.
        present: (B,) bool, which clips have the modality.
    """

    values: Tensor
    present: Tensor


@dataclass(frozen=True)
class Outputs:
    """Predictions, and further values that only the loss needs.

    Attributes:
        predictions: (B, L) on the [0, 1] scale.
        log_odds: (B, L) log odds that a label is above the low end of its range; None except for ``zero_inflated``
            and ``hurdle``.
        amount: (B, L) share of raters who see an emotion, given that anybody sees it; None except for ``hurdle``.
        branches: predictions (B, L) of single modalities, for auxiliary supervision.
        latents: means, then log variances, (B, 2K), of latent codes.
    """

    predictions: Tensor
    log_odds: Tensor | None = None
    amount: Tensor | None = None
    branches: tuple[Part, ...] = ()
    latents: tuple[Part, ...] = ()

    def pack(self) -> Tensor:
        """Concatenate all values to (B, …), so that workers can exchange them in one operation."""
        columns = self._columns()
        return columns[0] if len(columns) == 1 else torch.cat(columns, dim=1)

    def unpack(self, packed: Tensor) -> "Outputs":
        """Reverse :meth:`pack`: split ``packed``, with any number of rows, into outputs of the same form as these."""
        pieces = list(packed.split([column.shape[1] for column in self._columns()], dim=1))

        def parts(like: tuple[Part, ...]) -> tuple[Part, ...]:
            # A worker receives presence as a number, because all values travel in one float tensor.
            return tuple(Part(pieces.pop(0), pieces.pop(0).squeeze(1) > 0) for _ in like)

        return Outputs(
            predictions=pieces.pop(0),
            log_odds=None if self.log_odds is None else pieces.pop(0),
            amount=None if self.amount is None else pieces.pop(0),
            branches=parts(self.branches),
            latents=parts(self.latents),
        )

    def _columns(self) -> list[Tensor]:
        odds = [part for part in (self.log_odds, self.amount) if part is not None]
        parts = [
            column
            for part in (*self.branches, *self.latents)
            for column in (part.values, part.present[:, None].to(self.predictions.dtype))
        ]
        return [self.predictions, *odds, *parts]
