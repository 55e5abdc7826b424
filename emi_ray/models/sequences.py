"""How a batch of feature sequences reaches a model: flat as in memory, or padded in groups of similar length."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from emi_ray.models.flat_attention import FlatSteps
from emi_ray.schema import Stream


@dataclass(frozen=True)
class PaddedGroup:
    """Clips of similar length: ``values`` (b, T, D) float32, ``mask`` (b, T) bool, True for a real step."""

    values: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Padding:
    """All clips of a batch in padded groups.

    Attributes:
        groups: their clips, one group below the other, are the batch in another order. Most batches are one
            group; one very long clip makes a group of its own instead of padding all others to its length.
        order: (B,) int64, the place of each clip of the batch among the groups' rows; None: as they stand.
    """

    groups: tuple[PaddedGroup, ...]
    order: Tensor | None = None

    def rows(self) -> list[Tensor]:
        """For each group, the places of its clips in the batch."""
        num_clips = sum(len(group.mask) for group in self.groups)
        device = self.groups[0].mask.device
        places = torch.arange(num_clips, device=device) if self.order is None else torch.argsort(self.order)
        return list(places.split([len(group.mask) for group in self.groups]))

    def in_batch_order(self, parts: Sequence[Tensor]) -> Tensor:
        """What was computed of each group, one row a clip, as the rows of the batch."""
        rows = torch.cat(list(parts))
        return rows if self.order is None else rows[self.order]


@dataclass(frozen=True)
class Sequences:
    """One modality of a batch of B clips; padded only when somebody asks for it.

    Attributes:
        present: (B,) bool, False for clips that lack the modality, whose steps are all masked.
        pad: makes the padded groups.
        flat: the same steps unpadded, on a CPU; else None.
        pooled: True where each sequence is one vector that its encoder's pooling made beforehand.
    """

    present: Tensor
    pad: Callable[[], Padding]
    flat: FlatSteps | None = None
    pooled: bool = False


def with_one_step(mask: Tensor) -> Tensor:
    """The mask (b, T) with the first step of each clip that has none, which attention cannot do without."""
    first = torch.arange(mask.shape[1], device=mask.device) == 0
    return mask | (~mask.any(dim=1, keepdim=True) & first)


def padded(*groups: PaddedGroup, present: Tensor, order: Tensor | None = None) -> Sequences:
    """Sequences that are padded already."""
    padding = Padding(groups, order)
    return Sequences(present, lambda: padding)


Inputs = Mapping[Stream, Sequences]
