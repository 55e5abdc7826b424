"""The clips of a search: the recipe's training clips, some of which are used for validation.

The official validation clips are never used. A search that selected trials on them would make the reported score
optimistic.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from emi_ray.corpus.splits import holdout, k_folds, with_split
from emi_ray.recipe.schema import Recipe
from emi_ray.training.data.clip_data import ClipData
from emi_ray.training.data.split_rows import Rows, split_rows
from emi_ray.training.plan import RunPlan
from emi_ray.tuning.settings import StudySettings

_SPLIT_SEED = 42


@dataclass(frozen=True)
class TuningData:
    """Features and targets of all clips, and the rows to train and validate on in each fold."""

    clips: ClipData
    folds: tuple[Rows, ...]


def read_tuning_data(plan: RunPlan, settings: StudySettings) -> TuningData:
    """Read the features that a recipe needs and draw the tuning split from its training clips.

    Raises:
        UserError: there are too few clips, or features that are not finite.
    """
    table = plan.read_clips()
    data = plan.read_data(table)
    return TuningData(data, tuning_rows(data, table, plan.recipe, settings.folds, settings.holdout))


def tuning_rows(
    data: ClipData, table: pa.Table, recipe: Recipe, folds: int, share: float
) -> tuple[Rows, ...]:
    """Split the recipe's training clips into train and val, once for each fold.

    Args:
        data: all clips.
        table: the same clips as a table, ``clips.parquet``.
        recipe: its ``split`` decides which clips are training clips.
        folds: number of cross-validation folds; 1 holds out ``share`` of the clips once.
        share: share of the clips that is held out with one fold.
    """
    train_rows = split_rows(data, recipe.split).train
    train = pa.table({"clip_id": data.clip_ids[train_rows], "split": np.full(len(train_rows), "train")})
    clips = with_split(table, train)
    if folds == 1:
        return (
            _rows(train_rows, np.array(holdout(clips, share, _SPLIT_SEED)["split"].to_pylist()) == "val"),
        )
    fold_of = k_folds(clips, folds, _SPLIT_SEED)["fold"].to_numpy()
    return tuple(_rows(train_rows, fold_of == fold) for fold in range(folds))


def _rows(train_rows: np.ndarray, is_val: Sequence[bool] | np.ndarray) -> Rows:
    return Rows(train_rows[~np.asarray(is_val)], train_rows[np.asarray(is_val)])
