"""Predictions of the validation clips by single modalities, so that a fusion can be compared with its best modality
on the same clips."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from emi_ray.models.build import build_unimodal
from emi_ray.models.late_fusion import LateFusionRegressor
from emi_ray.recipe.schema import Recipe
from emi_ray.schema import Modality
from emi_ray.training.data.batching import Batcher
from emi_ray.training.data.clip_data import ClipData
from emi_ray.training.data.split_rows import Rows
from emi_ray.training.loop import predict_unit_scale
from emi_ray.training.stages.train_recipe import TrainedRecipe


def stage_predictions(recipe: Recipe, trained: TrainedRecipe, data: ClipData) -> pa.Table:
    """Predict the validation clips with each stage-1 model.

    Returns:
        One row for each modality and clip: ``clip_id``, ``stage``, and one column per label, in its units. The clips
        of a modality are the validation clips of its stage. A jointly trained fusion has no stages and thus no rows.
    """
    parts: dict[Modality, np.ndarray] = {}
    rows = {
        m: stage_rows(recipe, m, data, trained.rows).val for m in recipe.modalities if m in trained.results
    }
    for modality, chosen in rows.items():
        parts[modality] = data.in_units(_predict(recipe, trained, data, modality, chosen))
    stages = np.repeat(list(parts), [len(part) for part in parts.values()])
    everything = np.concatenate([np.empty((0, len(data.labels))), *parts.values()])
    columns: Mapping[str, Any] = {
        "clip_id": pa.array([data.clip_ids[row] for part in rows.values() for row in part], pa.string()),
        "stage": pa.array(stages.tolist(), pa.string()),
        **{label.name: everything[:, index] for index, label in enumerate(data.labels)},
    }
    return pa.table(columns)


def stage_rows(recipe: Recipe, modality: Modality, data: ClipData, rows: Rows) -> Rows:
    """Return the clips that the stage of a modality is trained and validated on."""
    return rows if recipe.encoders[modality].missing == "zero" else rows.with_any_of(data, [modality])


def _predict(
    recipe: Recipe, trained: TrainedRecipe, data: ClipData, modality: Modality, rows: np.ndarray
) -> np.ndarray:
    device = next(trained.model.parameters()).device
    batcher = Batcher(data, [modality], device)
    if isinstance(trained.model, LateFusionRegressor):
        members = trained.model.regressors(modality)
        return np.mean([predict_unit_scale(member, batcher, rows) for member in members], axis=0)
    model = build_unimodal(recipe, modality, data.features[modality].feature_dim, len(data.labels))
    model.load_state_dict(trained.results[modality].weights)
    return predict_unit_scale(model.to(device), batcher, rows)
