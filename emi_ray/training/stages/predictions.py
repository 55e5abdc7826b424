"""Predictions of the validation clips by single encoders, so that a fusion can be compared with its best encoder
on the same clips."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from emi_ray.models.build import build_unimodal
from emi_ray.models.late_fusion import LateFusionRegressor
from emi_ray.recipe.schema import Recipe
from emi_ray.schema import EncoderName
from emi_ray.training.data.batching import Batcher
from emi_ray.training.data.clip_data import ClipData
from emi_ray.training.data.split_rows import Rows
from emi_ray.training.loop import predict_unit_scale
from emi_ray.training.stages.train_recipe import TrainedRecipe


def stage_predictions(recipe: Recipe, trained: TrainedRecipe, data: ClipData) -> pa.Table:
    """Predict the validation clips with each stage-1 model.

    Returns:
        One row for each encoder and clip: ``clip_id``, ``stage``, and one column per label, in its units. The clips
        of an encoder are the validation clips of its stage. A jointly trained fusion has no stages and thus no rows.
    """
    rows = {s: stage_rows(recipe, s, data, trained.rows).val for s in recipe.streams if s in trained.results}
    parts = {
        stream: data.in_units(_predict(recipe, trained, data, stream, chosen))
        for stream, chosen in rows.items()
    }
    stages = np.repeat(list(parts), [len(part) for part in parts.values()])
    everything = np.concatenate([np.empty((0, len(data.labels))), *parts.values()])
    columns: Mapping[str, Any] = {
        "clip_id": pa.array([data.clip_ids[row] for part in rows.values() for row in part], pa.string()),
        "stage": pa.array(stages.tolist(), pa.string()),
        **{label.name: everything[:, index] for index, label in enumerate(data.labels)},
    }
    return pa.table(columns)


def stage_rows(recipe: Recipe, stream: EncoderName, data: ClipData, rows: Rows) -> Rows:
    """Return the clips that the stage of an encoder is trained and validated on."""
    return rows if recipe.encoders[stream].missing == "zero" else rows.with_any_of(data, [stream])


def _predict(
    recipe: Recipe, trained: TrainedRecipe, data: ClipData, stream: EncoderName, rows: np.ndarray
) -> np.ndarray:
    device = next(trained.model.parameters()).device
    batcher = Batcher(data, [stream], device)
    if isinstance(trained.model, LateFusionRegressor):
        members = trained.model.regressors(stream)
        return np.mean([predict_unit_scale(member, batcher, rows) for member in members], axis=0)
    model = build_unimodal(recipe, stream, data.features[stream].feature_dim, len(data.labels))
    model.load_state_dict(trained.results[stream].weights)
    return predict_unit_scale(model.to(device), batcher, rows)
