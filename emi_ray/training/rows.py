"""Which clips train and which validate."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from emi_ray.corpus.splits import GROUP, expanded_split, pooled_split
from emi_ray.errors import UserError
from emi_ray.recipe_schema import SplitName
from emi_ray.schema import Modality, clips_schema
from emi_ray.training.clip_data import ClipData

DRAWN_SEED = 42
"""Of the expanded and the pooled split: the same whatever the seed of a run, so that runs can be compared."""


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


def split_rows(data: ClipData, split: SplitName = "official") -> Rows:
    """The labelled clips of a split: those with at least one label.

    ``official`` takes the corpus's own train and val; the others are drawn by :func:`draw_split`.

    Raises:
        UserError: there is nothing to train on or nothing to validate on.
    """
    labelled = np.isfinite(data.targets).any(axis=1)
    splits = data.splits if split == "official" else np.array(draw_split(data, split)["split"].to_pylist())
    train, val = (np.flatnonzero(labelled & (splits == name)) for name in ("train", "val"))
    for name, rows in (("train", train), ("val", val)):
        if not len(rows):
            raise UserError(f"The {split} {name} split has no labelled clips: training needs some in each.")
    return Rows(train, val)


def draw_split(data: ClipData, split: SplitName) -> pa.Table:
    """An ``expanded`` or ``pooled`` split: ``clip_id`` and ``split`` of all clips, in their order.

    Raises:
        UserError: the corpus has too few clips, or too few in val.
    """
    draw = {"expanded": expanded_split, "pooled": pooled_split}[split]
    return draw(as_table(data), DRAWN_SEED)


def as_table(data: ClipData) -> pa.Table:
    """The clips as the corpus's table has them: id, split, group and labels, the rest null."""
    nothing = pa.nulls(len(data), pa.string())
    columns: dict[str, Any] = {"clip_id": data.clip_ids, "split": data.splits, GROUP: nothing}
    if data.groups is not None:
        columns[GROUP] = pa.array(data.groups, pa.string())
    targets = data.targets.astype(np.float64)
    for index, label in enumerate(data.labels):
        columns[label.name] = pa.array(targets[:, index], mask=np.isnan(targets[:, index]))
    schema = clips_schema(data.labels)
    if GROUP not in schema.names:
        schema = schema.insert(2, pa.field(GROUP, pa.string()))
    return pa.table([columns.get(name, nothing) for name in schema.names], schema=schema)
