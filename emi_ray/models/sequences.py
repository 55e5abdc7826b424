"""How a batch of feature sequences reaches a model: padded in groups of similar length."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from emi_ray.schema import Modality


@dataclass(frozen=True)
class PaddedGroup:
    """Clips of similar length: ``values`` (b, T, D) float32, ``mask`` (b, T) bool, True for a real step."""

    values: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Sequences:
    """One modality of a batch of B clips.

    Attributes:
        groups: their clips, one group below the other, are the batch in another order. Most batches are one
            group; one very long clip makes a group of its own instead of padding all others to its length.
        order: (B,) int64, the place of each clip of the batch among the groups' rows; None: as they stand.
        present: (B,) bool, False for clips that lack the modality, whose steps are all masked.
    """

    groups: tuple[PaddedGroup, ...]
    order: Tensor | None
    present: Tensor


Inputs = Mapping[Modality, Sequences]
