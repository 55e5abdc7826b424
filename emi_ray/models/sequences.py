"""A batch of feature sequences as input of a model: unpadded in packed memory, or padded in groups."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from emi_ray.models.flat_attention import FlatSteps
from emi_ray.schema import EncoderName


@dataclass(frozen=True)
class PaddedGroup:
    """Clips of similar length: ``values`` (b, T, D) float32, ``mask`` (b, T) bool, True for a real step."""

    values: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Padding:
    """All clips of a batch in padded groups of similar length.

    Attributes:
        groups: the groups, whose concatenated rows are the clips of the batch in another order. Most batches are one
            group. A very long clip is a group of its own, so that the others need not be padded to its length.
        order: (B,) int64, the row of each clip of the batch in the concatenated groups; None if the order is the
            same.
    """

    groups: tuple[PaddedGroup, ...]
    order: Tensor | None = None

    def rows(self) -> list[Tensor]:
        """Return for each group the positions of its clips in the batch."""
        num_clips = sum(len(group.mask) for group in self.groups)
        device = self.groups[0].mask.device
        # order maps batch to concatenated rows; argsort inverts a permutation.
        places = torch.arange(num_clips, device=device) if self.order is None else torch.argsort(self.order)
        return list(places.split([len(group.mask) for group in self.groups]))

    def in_batch_order(self, parts: Sequence[Tensor]) -> Tensor:
        """Concatenate the results of all groups, one row per clip, in the order of the batch."""
        rows = torch.cat(list(parts))
        return rows if self.order is None else rows[self.order]


@dataclass(frozen=True)
class Sequences:
    """One modality of a batch of B clips. It is padded only on demand.

    Attributes:
        present: (B,) bool, False for clips that lack the modality, whose steps are all masked.
        pad: computes the padded groups.
        flat: the same steps unpadded, if they are on a CPU; else None.
        pooled: whether each sequence is a single vector that the encoder's pooling has computed in advance.
    """

    present: Tensor
    pad: Callable[[], Padding]
    flat: FlatSteps | None = None
    pooled: bool = False


def with_one_step(mask: Tensor) -> Tensor:
    """Unmask the first step of clips without any real step in ``mask`` (b, T): attention over no step is NaN."""
    first = torch.arange(mask.shape[1], device=mask.device) == 0
    return mask | (~mask.any(dim=1, keepdim=True) & first)


def padded(*groups: PaddedGroup, present: Tensor, order: Tensor | None = None) -> Sequences:
    """Build sequences from groups that are already padded."""
    padding = Padding(groups, order)
    return Sequences(present, lambda: padding)


Inputs = Mapping[EncoderName, Sequences]
"""The input of a model: the sequences of each encoder."""
