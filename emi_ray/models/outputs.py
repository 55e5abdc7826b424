"""What a regressor gives for a batch of B clips and L labels, and which of its parameters learn how fast."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from emi_ray.recipe_schema import ObjectiveSettings


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that learn at ``lr_ratio`` times the learning rate."""

    parameters: list[nn.Parameter]
    lr_ratio: float = 1.0


Kind = Literal["linear", "zero_inflated", "binomial", "hurdle"]
"""How a last layer's numbers become predictions: see :meth:`Targets.read`."""


@dataclass(frozen=True)
class Targets:
    """What a model has to put out: how many labels, and what their objective needs beside predictions."""

    num_labels: int
    kind: Kind = "linear"
    branches: bool = False

    @classmethod
    def of(cls, num_labels: int, objective: ObjectiveSettings) -> "Targets":
        kind: Kind = "linear"
        if objective.hurdle > 0:
            kind = "hurdle"
        elif objective.binomial > 0:
            kind = "binomial"
        elif objective.zero_inflated > 0:
            kind = "zero_inflated"
        return cls(num_labels, kind, objective.auxiliary > 0)

    def last_layer(self, width: int) -> nn.Linear:
        """The layer whose numbers ``read`` reads. Probabilities start where few raters see an emotion."""
        layer = nn.Linear(width, self.num_labels * (2 if self.kind in ("zero_inflated", "hurdle") else 1))
        if self.kind in _STARTS:
            with torch.no_grad():
                layer.bias.view(-1, self.num_labels).copy_(torch.tensor(_STARTS[self.kind])[:, None])
        return layer

    def branch(self, width: int) -> nn.Module:
        """What predicts from one modality alone, for auxiliary supervision."""
        layer = nn.Linear(width, self.num_labels)
        return layer if self.kind in ("linear", "zero_inflated") else nn.Sequential(layer, nn.Sigmoid())

    def read(self, raw: Tensor) -> "Outputs":
        """A last layer's numbers (B, L or 2L) as predictions.

        ``linear`` takes them as they are, ``binomial`` as log odds of the prediction. ``zero_inflated`` and
        ``hurdle`` read "probability of being above zero" x "how much, if so", of which the second is a number in
        the one and a probability in the other.
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
"""Biases of last layers at the start, a row each: of log odds."""


@dataclass(frozen=True)
class Part:
    """What a model says of one modality: ``values`` (B, K), and ``present`` (B,) bool, which clips have it.

    Of a clip that lacks the modality the values mean nothing, and no loss looks at them.
    """

    values: Tensor
    present: Tensor


@dataclass(frozen=True)
class Outputs:
    """Predictions, and what only the objective looks at.

    Attributes:
        predictions: (B, L) on the [0, 1] scale.
        log_odds: (B, L), that a label is above the low end of its range; None unless zero-inflated or a hurdle.
        amount: (B, L), the share of raters who see an emotion that anybody sees; None unless a hurdle.
        branches: (B, L) each: predictions of single modalities, for auxiliary supervision.
        latents: (B, 2K) each: means, then log variances, of latent codes.
    """

    predictions: Tensor
    log_odds: Tensor | None = None
    amount: Tensor | None = None
    branches: tuple[Part, ...] = ()
    latents: tuple[Part, ...] = ()

    def pack(self) -> Tensor:
        """All of it side by side, (B, …), for one exchange between workers."""
        columns = self._columns()
        return columns[0] if len(columns) == 1 else torch.cat(columns, dim=1)

    def unpack(self, packed: Tensor) -> "Outputs":
        """What ``pack`` of outputs of the same form gave, for however many clips."""
        pieces = list(packed.split([column.shape[1] for column in self._columns()], dim=1))

        def parts(like: tuple[Part, ...]) -> tuple[Part, ...]:
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
