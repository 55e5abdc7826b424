"""The clips that a search may see: those that the recipe trains on, some of which validate.

The clips that the recipe is reported on never enter: a search that looked at them would report its own luck.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from emi_ray.corpus.splits import holdout, k_folds, with_split
from emi_ray.recipe import Recipe
from emi_ray.training.clip_data import ClipData
from emi_ray.training.plan import RunPlan
from emi_ray.training.rows import Rows, split_rows
from emi_ray.tuning.settings import StudySettings

_SPLIT_SEED = 42


@dataclass(frozen=True)
class TuningData:
    """Features and targets, held once, and the rows to train and validate on, fold by fold."""

    clips: ClipData
    folds: tuple[Rows, ...]


def read_tuning_data(plan: RunPlan, settings: StudySettings) -> TuningData:
    """Read the features that a recipe needs and draw the tuning split from its training clips.

    Raises:
        UserError: there are too few clips, or features that are not finite.
    """
    data = plan.read_data()
    table = plan.workspace.clips()
    return TuningData(data, tuning_rows(data, table, plan.recipe, settings.folds, settings.holdout))


def tuning_rows(
    data: ClipData, table: pa.Table, recipe: Recipe, folds: int, share: float
) -> tuple[Rows, ...]:
    """Rows of the recipe's training clips, drawn into train and val once, or once a fold.

    Args:
        table: ``clips.parquet``, whose rows are those of ``data``.
        folds: 1 holds out ``share`` of the clips.
    """
    own = split_rows(data, recipe.split).train
    train = pa.table({"clip_id": data.clip_ids[own], "split": np.full(len(own), "train")})
    clips = with_split(table, train)
    if folds == 1:
        return (_rows(own, np.array(holdout(clips, share, _SPLIT_SEED)["split"].to_pylist()) == "val"),)
    fold_of = k_folds(clips, folds, _SPLIT_SEED)["fold"].to_numpy()
    return tuple(_rows(own, fold_of == fold) for fold in range(folds))


def _rows(own: np.ndarray, is_val: Sequence[bool] | np.ndarray) -> Rows:
    return Rows(own[~np.asarray(is_val)], own[np.asarray(is_val)])
