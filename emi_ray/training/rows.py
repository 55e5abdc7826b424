"""Which clips train and which validate."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from emi_ray.corpus.splits import expanded_split
from emi_ray.errors import UserError
from emi_ray.schema import Modality, clips_schema
from emi_ray.training.clip_data import ClipData

EXPANDED_SEED = 42
"""Of the expanded split: the same whatever the seed of a run, so that runs can be compared."""


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

    ``official`` takes the corpus's own train and val; ``expanded`` is :func:`draw_expanded`.

    Raises:
        UserError: there is nothing to train on or nothing to validate on.
    """
    labelled = np.isfinite(data.targets).any(axis=1)
    splits = data.splits if split == "official" else np.array(draw_expanded(data)["split"].to_pylist())
    train, val = (np.flatnonzero(labelled & (splits == name)) for name in ("train", "val"))
    for name, rows in (("train", train), ("val", val)):
        if not len(rows):
            raise UserError(f"The {split} {name} split has no labelled clips: training needs some in each.")
    return Rows(train, val)


def draw_expanded(data: ClipData) -> pa.Table:
    """Train and val drawn anew 4:1: ``clip_id`` and ``split`` of all clips, in their order.

    Raises:
        UserError: there are too few clips.
    """
    nothing = pa.nulls(len(data), pa.string())
    columns: dict[str, object] = {"clip_id": data.clip_ids, "split": data.splits}
    targets = data.targets.astype(np.float64)
    for index, label in enumerate(data.labels):
        columns[label.name] = pa.array(targets[:, index], mask=np.isnan(targets[:, index]))
    schema = clips_schema(data.labels)
    table = pa.table([columns.get(name, nothing) for name in schema.names], schema=schema)
    return expanded_split(table, EXPANDED_SEED)
