"""Which clips train and which validate."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from emi_ray.errors import UserError
from emi_ray.schema import Modality
from emi_ray.training.clip_data import ClipData

_EXPANDED_SEED = 42
_EXPANDED_SHARES = 5


@dataclass(frozen=True)
class Rows:
    """Rows of a :class:`ClipData`, (n,) int64 each, ascending."""

    train: np.ndarray
    val: np.ndarray

    def having(self, data: ClipData, modalities: Iterable[Modality]) -> "Rows":
        """Only the clips that have at least one of the modalities.

        Raises:
            UserError: none is left to train on, or none to validate on.
        """
        modalities = list(modalities)
        present = np.any([data.features[modality].present for modality in modalities], axis=0)
        kept = Rows(self.train[present[self.train]], self.val[present[self.val]])
        for name, rows in (("train", kept.train), ("val", kept.val)):
            if not len(rows):
                raise UserError(f"No labelled {name} clip has {' or '.join(modalities)} features.")
        return kept


def split_rows(data: ClipData, split: Literal["official", "expanded"] = "official") -> Rows:
    """The labelled clips of a split: those with at least one label.

    ``official`` takes the corpus's own train and val. ``expanded`` pools them and holds every fifth clip out,
    evenly over the patterns of which labels are above the low end of their range; always the same way.

    Raises:
        UserError: there is nothing to train on or nothing to validate on.
    """
    labelled = np.isfinite(data.targets).any(axis=1)
    train, val = (np.flatnonzero(labelled & (data.splits == name)) for name in ("train", "val"))
    if split == "expanded":
        train, val = _hold_out(data, np.sort(np.concatenate([train, val])))
    for name, rows in (("train", train), ("val", val)):
        if not len(rows):
            raise UserError(f"The {split} {name} split has no labelled clips: training needs some in each.")
    return Rows(train, val)


def _hold_out(data: ClipData, pool: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low = np.array([label.low for label in data.labels])
    patterns = [tuple(row) for row in (data.targets[pool] > low).tolist()]
    codes = {pattern: code for code, pattern in enumerate(sorted(set(patterns)))}
    shuffled = np.random.default_rng(_EXPANDED_SEED).permutation(len(pool))
    by_pattern = shuffled[np.argsort([codes[patterns[place]] for place in shuffled], kind="stable")]
    held_out = by_pattern[_EXPANDED_SHARES - 1 :: _EXPANDED_SHARES]
    is_held_out = np.isin(np.arange(len(pool)), held_out)
    return pool[~is_held_out], pool[is_held_out]
