"""Weights of late fusion, from predictions of clips that their predictor has not seen in training.

Predictions of its own training clips would praise a model that has learnt them by heart (training r of .96
where new clips give .4). So the training clips are cut into folds, between people and never through one; each member
learns from all folds but one, which stops it and which it then predicts. The official
validation clips decide nothing.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls

from emi_ray.errors import UserError
from emi_ray.metrics import scores
from emi_ray.models.build import build_model
from emi_ray.models.fusion import Regressor
from emi_ray.models.late_fusion import LateFusionRegressor
from emi_ray.resampling import codes_of
from emi_ray.schema import Stream
from emi_ray.training.batching import Batcher
from emi_ray.training.clip_data import ClipData
from emi_ray.training.loop import predict, seed_everything
from emi_ray.training.rows import Rows
from emi_ray.training.stage_runner import FUSION, StageOutcome, StageRunner, feature_statistics

_RIDGE = 1e-3
"""Share of the predictions' own spread that is added against chance agreement of modalities."""


def train_late(run: StageRunner) -> LateFusionRegressor:
    """Train the members of every modality on folds, then weigh them by what they say of unseen clips."""
    assert run.recipe.fusion is not None
    dims = {m: run.data.features[m].feature_dim for m in run.recipe.streams}
    seed_everything(run.seed, FUSION, "weights")
    model = build_model(run.recipe, dims, len(run.data.labels))
    assert isinstance(model, LateFusionRegressor)
    rows = run.rows.having(run.data, run.recipe.streams)
    unseen = [_train_members(run, model, modality) for modality in model.modalities]
    targets = run.data.unit_targets
    set_late_weights(model, [part[rows.train] for part in unseen], targets[rows.train])
    _score(run, model, rows)
    return model


def _train_members(run: StageRunner, model: LateFusionRegressor, modality: Stream) -> np.ndarray:
    """Train each member on all folds but one; returns what they predict of the one, NaN for other clips."""
    settings, members = run.recipe.encoders[modality], model.regressors(modality)
    rows = run.rows.having(run.data, [modality])
    values = np.full((len(run.data), len(run.data.labels)), np.nan)
    for index, fold in enumerate(cut_folds(rows, run.data, len(members), run.seed)):
        member = members[index]
        if settings.standardise:
            member.encoder.set_statistics(*feature_statistics(run.data.features[modality], fold.train))
        run.train(f"{modality}.{index}", member, run.data, fold, run.recipe.training_of(settings))
        values[fold.val] = predict(member, Batcher(run.data, [modality], run.device), fold.val)
    return values


def _score(run: StageRunner, model: LateFusionRegressor, rows: Rows) -> None:
    """Replace the outcomes of single members by those of modalities, and add that of their fusion."""
    model.to(run.device)
    members, run.outcomes = run.outcomes, {}
    weight, bias = model.weight.clone(), model.bias.clone()
    for index, modality in enumerate(model.modalities):
        alone = torch.zeros_like(weight)
        alone[index] = 1.0
        model.set_weights(alone, model.centre.clone(), model.centre[index].clone())
        own = [members[f"{modality}.{k}"] for k in range(len(model.regressors(modality)))]
        history = [{**entry, "stage": modality} for entry in own[0].history]
        having = run.rows.having(run.data, [modality])
        seconds = sum(outcome.seconds for outcome in own)
        scored = _validate(run, model, having.val)
        run.outcomes[modality] = StageOutcome(
            {}, scored, history, own[0].best_epoch, len(having.train), len(having.val), seconds
        )
    model.set_weights(weight, model.centre.clone(), bias)
    scored = _validate(run, model, rows.val)
    entry = {"stage": FUSION, "epoch": 1, **scored, "lr": 0.0, "seconds": 0.0}
    run.outcomes[FUSION] = StageOutcome({}, scored, [entry], 1, len(rows.train), len(rows.val), 0.0)
    if run.hooks.on_epoch_end is not None:
        run.hooks.on_epoch_end(entry)


def _validate(run: StageRunner, model: Regressor, rows: np.ndarray) -> dict[str, Any]:
    predictions = predict(model, Batcher(run.data, model.modalities, run.device), rows)
    return scores(run.data.in_units(predictions), run.data.targets[rows], run.data.labels)


def cut_folds(rows: Rows, data: ClipData, num_folds: int, seed: int) -> list[Rows]:
    """The training rows in folds: each in turn validates what the others train. A group is never cut.

    Raises:
        UserError: there are fewer groups than folds.
    """
    codes = codes_of(None if data.groups is None else data.groups[rows.train], len(rows.train))
    sizes = np.bincount(codes)
    if len(sizes) < num_folds:
        raise UserError(
            f"fusion.folds = {num_folds}, but the training clips are of {len(sizes)} groups (people), which are "
            "never cut: set fusion.folds to fewer."
        )
    order = np.random.default_rng([seed, num_folds]).permutation(len(sizes))
    # Large groups first, each to the fold that has least: folds come out as equal as whole groups allow.
    order = order[np.argsort(-sizes[order], kind="stable")]
    fold_of, filled = np.empty(len(sizes), dtype=np.int64), np.zeros(num_folds, dtype=np.int64)
    for group in order:
        fold_of[group] = int(np.argmin(filled))
        filled[fold_of[group]] += sizes[group]
    fold = fold_of[codes]
    return [Rows(rows.train[fold != k], rows.train[fold == k]) for k in range(num_folds)]


def set_late_weights(model: LateFusionRegressor, unseen: Sequence[np.ndarray], targets: np.ndarray) -> None:
    """Least squares with weights that are not negative: a modality that only harms a label is silent on it.

    Args:
        unseen: predictions (N, L) of each modality of the model, in their order, by members that have not
            learnt from those clips; NaN where a clip lacks the modality.
        targets: (N, L) on the [0, 1] scale; NaN where unknown.
    """
    num_labels = targets.shape[1]
    centre = np.stack([_known_mean(part) for part in unseen])
    moved = [np.nan_to_num(part - mean) for part, mean in zip(unseen, centre, strict=True)]
    weight, bias = np.zeros((len(unseen), num_labels)), _known_mean(targets)
    for label in range(num_labels):
        known = np.isfinite(targets[:, label])
        x = np.stack([part[known, label] for part in moved], axis=1)
        y = targets[known, label] - bias[label]
        spread = np.sqrt(_RIDGE * np.square(x).sum() / x.shape[1])
        padded = np.concatenate([x, spread * np.eye(x.shape[1])]), np.append(y, np.zeros(x.shape[1]))
        weight[:, label] = nnls(*padded)[0]
    model.set_weights(*(torch.from_numpy(part).float() for part in (weight, centre, bias)))


def _known_mean(values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values)
    return np.where(known, values, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
