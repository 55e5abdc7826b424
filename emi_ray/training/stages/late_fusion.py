"""Training of late fusion, with weights that are fitted on out-of-fold predictions.

Weights must not be fitted on predictions of a model's own training clips, which it may have memorised (r of .96 on
training clips, .4 on new ones). The training clips are therefore divided into folds, without splitting a person's
clips. Each member is trained on all folds but one. The left-out fold is used for its early stopping, and its
predictions of that fold are used to fit the weights. The official validation clips are not used.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls

from emi_ray.errors import UserError
from emi_ray.metrics import compute_scores
from emi_ray.models.build import build_model
from emi_ray.models.fusion import Regressor
from emi_ray.models.late_fusion import LateFusionRegressor
from emi_ray.resampling import codes_of
from emi_ray.schema import EncoderName
from emi_ray.training.data.batching import Batcher
from emi_ray.training.data.clip_data import ClipData
from emi_ray.training.data.split_rows import Rows
from emi_ray.training.loop import predict_unit_scale, seed_everything
from emi_ray.training.stages.runner import FUSION, StageResult, StageRunner, feature_statistics

_RIDGE = 1e-3
"""Strength of the ridge penalty, relative to the mean sum of squares of the predictions."""


def train_late(run: StageRunner) -> tuple[LateFusionRegressor, dict[str, StageResult]]:
    """Train the members of all modalities on folds, then fit the weights on their out-of-fold predictions.

    Returns:
        The model, and the result of each modality and of the fusion.
    """
    assert run.recipe.fusion is not None
    dims = {m: run.data.features[m].feature_dim for m in run.recipe.streams}
    seed_everything(run.seed, FUSION, "weights")
    model = build_model(run.recipe, dims, len(run.data.labels))
    assert isinstance(model, LateFusionRegressor)
    rows = run.rows.with_any_of(run.data, run.recipe.streams)
    unseen = [_train_members(run, model, modality) for modality in model.modalities]
    targets = run.data.unit_targets
    set_late_weights(model, [part[rows.train] for part in unseen], targets[rows.train])
    return model, _score(run, model, rows)


def _train_members(run: StageRunner, model: LateFusionRegressor, modality: EncoderName) -> np.ndarray:
    """Train each member on all folds but one; returns the out-of-fold predictions (N, L), NaN for other clips."""
    settings, members = run.recipe.encoders[modality], model.regressors(modality)
    rows = run.rows.with_any_of(run.data, [modality])
    values = np.full((len(run.data), len(run.data.labels)), np.nan)
    for index, fold in enumerate(cut_folds(rows, run.data, len(members), run.seed)):
        member = members[index]
        if settings.standardise:
            member.encoder.set_statistics(*feature_statistics(run.data.features[modality], fold.train))
        run.train(f"{modality}.{index}", member, run.data, fold, run.recipe.training_of(settings))
        values[fold.val] = predict_unit_scale(member, Batcher(run.data, [modality], run.device), fold.val)
    return values


def _score(run: StageRunner, model: LateFusionRegressor, rows: Rows) -> dict[str, StageResult]:
    """Summarise the results of single members by one result for each modality, and add that of the fusion."""
    model.to(run.device)
    members, results = run.results, {}
    weight, bias = model.weight.clone(), model.bias.clone()
    for index, modality in enumerate(model.modalities):
        alone = torch.zeros_like(weight)
        alone[index] = 1.0
        model.set_weights(alone, model.centre.clone(), model.centre[index].clone())
        fold_results = [members[f"{modality}.{k}"] for k in range(len(model.regressors(modality)))]
        history = [{**entry, "stage": modality} for entry in fold_results[0].history]
        clips = run.rows.with_any_of(run.data, [modality])
        seconds = sum(result.seconds for result in fold_results)
        scored = _validate(run, model, clips.val)
        results[modality] = StageResult(
            {}, scored, history, fold_results[0].best_epoch, len(clips.train), len(clips.val), seconds
        )
    model.set_weights(weight, model.centre.clone(), bias)
    scored = _validate(run, model, rows.val)
    entry = {"stage": FUSION, "epoch": 1, **scored, "lr": 0.0, "seconds": 0.0}
    results[FUSION] = StageResult({}, scored, [entry], 1, len(rows.train), len(rows.val), 0.0)
    if run.hooks.on_epoch_end is not None:
        run.hooks.on_epoch_end(entry)
    return results


def _validate(run: StageRunner, model: Regressor, rows: np.ndarray) -> dict[str, Any]:
    predictions = predict_unit_scale(model, Batcher(run.data, model.modalities, run.device), rows)
    return compute_scores(run.data.in_units(predictions), run.data.targets[rows], run.data.labels)


def cut_folds(rows: Rows, data: ClipData, num_folds: int, seed: int) -> list[Rows]:
    """Divide the training rows into folds without splitting groups; each fold is the ``val`` of one result.

    Raises:
        UserError: there are fewer groups than folds.
    """
    codes = codes_of(None if data.groups is None else data.groups[rows.train], len(rows.train))
    sizes = np.bincount(codes)
    if len(sizes) < num_folds:
        raise UserError(
            f"fusion.folds = {num_folds}, but the training clips have only {len(sizes)} groups (people), and a group "
            f"is never split: set fusion.folds to at most {len(sizes)}."
        )
    order = np.random.default_rng([seed, num_folds]).permutation(len(sizes))
    # The largest groups first, each into the smallest fold, so that the folds are as equal as possible.
    order = order[np.argsort(-sizes[order], kind="stable")]
    fold_of, filled = np.empty(len(sizes), dtype=np.int64), np.zeros(num_folds, dtype=np.int64)
    for group in order:
        fold_of[group] = int(np.argmin(filled))
        filled[fold_of[group]] += sizes[group]
    fold = fold_of[codes]
    return [Rows(rows.train[fold != k], rows.train[fold == k]) for k in range(num_folds)]


def set_late_weights(model: LateFusionRegressor, unseen: Sequence[np.ndarray], targets: np.ndarray) -> None:
    """Fit the weights of the modalities for each label by non-negative least squares with a ridge penalty.

    Weights cannot be negative: a modality that only harms a label gets weight 0, instead of being used with reversed
    sign to fit noise.

    Args:
        model: receives the weights.
        unseen: out-of-fold predictions (N, L) of each modality, in the model's order; NaN for clips without it.
        targets: (N, L) on the [0, 1] scale; NaN for unknown values.
    """
    num_labels = targets.shape[1]
    centre = np.stack([_known_mean(part) for part in unseen])
    moved = [np.nan_to_num(part - mean) for part, mean in zip(unseen, centre, strict=True)]
    weight, bias = np.zeros((len(unseen), num_labels)), _known_mean(targets)
    for label in range(num_labels):
        known = np.isfinite(targets[:, label])
        x = np.stack([part[known, label] for part in moved], axis=1)
        y = targets[known, label] - bias[label]
        # Rows that are added to the equations for weight 0, scaled by the penalty, turn least squares into a ridge
        # regression. Without it, modalities with almost equal predictions would get arbitrary weights.
        spread = np.sqrt(_RIDGE * np.square(x).sum() / x.shape[1])
        padded = np.concatenate([x, spread * np.eye(x.shape[1])]), np.append(y, np.zeros(x.shape[1]))
        weight[:, label] = nnls(*padded)[0]
    model.set_weights(*(torch.from_numpy(part).float() for part in (weight, centre, bias)))


def _known_mean(values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values)
    return np.where(known, values, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
