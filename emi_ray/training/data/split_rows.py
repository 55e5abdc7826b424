"""Division of the clips into those for training, for selecting the best epoch, and for validation."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from emi_ray.corpus.splits import expanded_split, holdout, pooled_split
from emi_ray.errors import UserError
from emi_ray.recipe.sections import SplitName, TrainingSettings
from emi_ray.schema import GROUP, EncoderName, clips_schema
from emi_ray.training.data.clip_data import ClipData

DRAWN_SEED = 42
"""Random seed of the expanded and pooled splits and of the inner part. It is the same for all runs, so that runs with
different seeds can be compared."""


INNER_CLIPS = 400
"""Minimum number of clips of the inner part of train with ``stop_on: auto``. With 400 clips, the standard error of a
correlation is .05, and that of the mean over six labels about .02 to .03."""


@dataclass(frozen=True)
class Rows:
    """Rows of a :class:`ClipData`, (n,) int64 each, ascending.

    Attributes:
        train: clips that the weights are trained on.
        val: clips that the run is scored on.
        inner: clips held out from train, which select the best epoch; if None, ``val`` selects it.
    """

    train: np.ndarray
    val: np.ndarray
    inner: np.ndarray | None = None

    @property
    def stopping(self) -> np.ndarray:
        """The rows whose score selects the best epoch."""
        return self.val if self.inner is None else self.inner

    def parts(self) -> dict[str, np.ndarray]:
        """Return the parts that exist, by name."""
        return {"train": self.train, "val": self.val, **({} if self.inner is None else {"inner": self.inner})}

    def with_any_of(self, data: ClipData, modalities: Iterable[EncoderName]) -> "Rows":
        """Select the clips that have at least one of the modalities.

        Raises:
            UserError: a part has no such clips.
        """
        modalities = list(modalities)
        present = np.any([data.features[modality].present for modality in modalities], axis=0)
        kept = {name: rows[present[rows]] for name, rows in self.parts().items()}
        for name, rows in kept.items():
            if not len(rows):
                raise UserError(f"No labelled {name} clip has {' or '.join(modalities)} features.")
        return Rows(**kept)


def with_inner_part(data: ClipData, rows: Rows, training: TrainingSettings) -> Rows:
    """Hold out an inner part of train for early stopping, if ``training.stop_on`` asks for one.

    Selecting the best epoch on the validation clips would make their score optimistic. The inner part is stratified
    by which labels are present, consists of whole groups if the corpus names groups, and is the same for all seeds.

    Raises:
        UserError: an inner part is required, but there are too few clips.
    """
    expected = len(rows.train) * training.inner_share
    if training.stop_on == "val" or (training.stop_on == "auto" and expected < INNER_CLIPS):
        return rows
    train = as_table(data).take(pa.array(rows.train))
    train = train.set_column(1, train.schema.field("split"), pa.array(["train"] * len(rows.train)))
    is_inner = pc.equal(holdout(train, training.inner_share, DRAWN_SEED)["split"], "val").to_numpy()
    return Rows(rows.train[~is_inner], rows.val, rows.train[is_inner])


def split_rows(data: ClipData, split: SplitName = "official") -> Rows:
    """Return the clips of a split that have at least one label.

    ``official`` uses the train and val splits of the corpus; the others are drawn by :func:`draw_split`.

    Raises:
        UserError: train or val has no labelled clips.
    """
    labelled = np.isfinite(data.targets).any(axis=1)
    splits = data.splits if split == "official" else np.array(draw_split(data, split)["split"].to_pylist())
    train, val = (np.flatnonzero(labelled & (splits == name)) for name in ("train", "val"))
    for name, rows in (("train", train), ("val", val)):
        if not len(rows):
            raise UserError(f"The {split} {name} split has no labelled clips: training needs some in each.")
    return Rows(train, val)


def draw_split(data: ClipData, split: SplitName) -> pa.Table:
    """Draw an ``expanded`` or ``pooled`` split; returns a table with ``clip_id`` and ``split`` of all clips in order.

    Raises:
        UserError: the corpus, or its val split, has too few clips.
    """
    draw = {"expanded": expanded_split, "pooled": pooled_split}[split]
    return draw(as_table(data), DRAWN_SEED)


def as_table(data: ClipData) -> pa.Table:
    """Return the clips as a table with the corpus's schema: id, split, group and labels; other columns are null."""
    nothing = pa.nulls(len(data), pa.string())
    columns: dict[str, Any] = {"clip_id": data.clip_ids, "split": data.splits, GROUP: nothing}
    if data.groups is not None:
        columns[GROUP] = pa.array(data.groups, pa.string())
    targets = data.targets.astype(np.float64)
    for index, label in enumerate(data.labels):
        columns[label.name] = pa.array(targets[:, index], mask=np.isnan(targets[:, index]))
    schema = clips_schema(data.labels)
    return pa.table([columns.get(name, nothing) for name in schema.names], schema=schema)
