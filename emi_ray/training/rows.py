"""Which clips train, which choose the epoch, and which validate."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from emi_ray.corpus.splits import expanded_split, holdout, pooled_split
from emi_ray.errors import UserError
from emi_ray.recipe_schema import SplitName, TrainingSettings
from emi_ray.schema import GROUP, Stream, clips_schema
from emi_ray.training.clip_data import ClipData

DRAWN_SEED = 42
"""Of the expanded and the pooled split: the same whatever the seed of a run, so that runs can be compared."""


INNER_CLIPS = 400
"""An inner part of train of so many clips chooses epochs unless a recipe says otherwise: the standard error of a
correlation over it is .05, and of the mean over six labels some .02 to .03."""


@dataclass(frozen=True)
class Rows:
    """Rows of a :class:`ClipData`, (n,) int64 each, ascending.

    Attributes:
        train: that weights learn from.
        val: that a run is scored on.
        inner: taken out of train to choose epochs by; None: ``val`` does that too.
    """

    train: np.ndarray
    val: np.ndarray
    inner: np.ndarray | None = None

    @property
    def stopping(self) -> np.ndarray:
        """The rows whose score chooses the best epoch."""
        return self.val if self.inner is None else self.inner

    def parts(self) -> dict[str, np.ndarray]:
        """All that there is, by name."""
        return {"train": self.train, "val": self.val, **({} if self.inner is None else {"inner": self.inner})}

    def having(self, data: ClipData, modalities: Iterable[Stream]) -> "Rows":
        """Only the clips that have at least one of the modalities.

        Raises:
            UserError: none is left to train on, none to validate on, or none to stop by.
        """
        modalities = list(modalities)
        present = np.any([data.features[modality].present for modality in modalities], axis=0)
        kept = {name: rows[present[rows]] for name, rows in self.parts().items()}
        for name, rows in kept.items():
            if not len(rows):
                raise UserError(f"No labelled {name} clip has {' or '.join(modalities)} features.")
        return Rows(**kept)


def with_inner_part(data: ClipData, rows: Rows, training: TrainingSettings) -> Rows:
    """The rows with an inner part of train to stop by, where ``training.stop_on`` wants one.

    It is drawn as a held-out part is: stratified on which labels are present, by whole groups where there are some,
    the same for every seed of a run.

    Raises:
        UserError: an inner part is wanted and there are too few clips.
    """
    expected = len(rows.train) * training.inner_share
    if training.stop_on == "val" or (training.stop_on == "auto" and expected < INNER_CLIPS):
        return rows
    train = as_table(data).take(pa.array(rows.train))
    train = train.set_column(1, train.schema.field("split"), pa.array(["train"] * len(rows.train)))
    is_inner = pc.equal(holdout(train, training.inner_share, DRAWN_SEED)["split"], "val").to_numpy()
    return Rows(rows.train[~is_inner], rows.val, rows.train[is_inner])


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
    return pa.table([columns.get(name, nothing) for name in schema.names], schema=schema)
