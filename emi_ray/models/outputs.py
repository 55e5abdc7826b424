"""What a regressor gives for a batch of B clips and L labels, and which of its parameters learn how fast."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from emi_ray.recipe_schema import ObjectiveSettings


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that learn at ``lr_ratio`` times the learning rate."""

    parameters: list[nn.Parameter]
    lr_ratio: float = 1.0


@dataclass(frozen=True)
class Targets:
    """What a model has to put out: how many labels, and what their objective needs beside predictions."""

    num_labels: int
    zero_inflated: bool = False
    branches: bool = False

    @classmethod
    def of(cls, num_labels: int, objective: ObjectiveSettings) -> "Targets":
        return cls(num_labels, objective.zero_inflated > 0, objective.auxiliary > 0)

    @property
    def width(self) -> int:
        """Numbers of a last layer."""
        return 2 * self.num_labels if self.zero_inflated else self.num_labels


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
        log_odds: (B, L), that a label is above the low end of its range; None unless zero-inflated.
        branches: (B, L) each: predictions of single modalities, for auxiliary supervision.
        latents: (B, 2K) each: means, then log variances, of latent codes.
    """

    predictions: Tensor
    log_odds: Tensor | None = None
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
            branches=parts(self.branches),
            latents=parts(self.latents),
        )

    def _columns(self) -> list[Tensor]:
        odds = [] if self.log_odds is None else [self.log_odds]
        parts = [
            column
            for part in (*self.branches, *self.latents)
            for column in (part.values, part.present[:, None].to(self.predictions.dtype))
        ]
        return [self.predictions, *odds, *parts]


def read_head(raw: Tensor, zero_inflated: bool) -> tuple[Tensor, Tensor | None]:
    """A last layer's numbers as (predictions, log odds).

    Zero-inflated, (B, 2L): the expectation "probability of being above zero" x "how much, if so".
    """
    if not zero_inflated:
        return raw, None
    log_odds, amount = raw.chunk(2, dim=1)
    return torch.sigmoid(log_odds) * amount, log_odds
