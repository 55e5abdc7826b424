"""The files of a finished run, ``runs/<recipe>/<seed>/``.

history.csv           one row for each stage and epoch
predictions.parquet   of validation and test clips: clip_id, split, one column per label, true_<label>, modalities,
                      scored
stages.parquet        stage-1 predictions of the validation clips: clip_id, stage, one column per label
split.parquet         the clips of the run: clip_id, split (train, val, or inner for the held-out part of train that
                      selects the best epoch), and digest_<encoder>, a hash of the clip's features
recipe.yaml           the resolved recipe with all overrides
versions.json         versions of Python and the libraries
model.safetensors, model.json
metrics.json          written last: if it exists, the run is finished
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from emi_ray.errors import UserError
from emi_ray.metrics import compute_scores, label_score
from emi_ray.models.backbone import load_tokenizer
from emi_ray.models.fusion import Regressor
from emi_ray.recipe.schema import Recipe
from emi_ray.results.predictions import PREDICTIONS, SCORED, STAGES
from emi_ray.results.runs import DESCRIPTION, HISTORY, METRICS, RECIPE, SPLIT, VERSIONS
from emi_ray.schema import TRUE_PREFIX, EncoderName
from emi_ray.settings import dump_yaml
from emi_ray.store.feature_store import FeatureStore
from emi_ray.training.checkpoint import ModelDescription, save_model
from emi_ray.training.data.batching import Batcher
from emi_ray.training.data.clip_data import ClipData
from emi_ray.training.data.input_hashes import digests_of
from emi_ray.training.data.split_rows import Rows
from emi_ray.training.data.transcripts import TOKENIZER, dump_tokenizer
from emi_ray.training.distributed import Team
from emi_ray.training.loop import predict_unit_scale
from emi_ray.training.stages.predictions import stage_predictions
from emi_ray.training.stages.runner import FUSION, StageResult
from emi_ray.training.stages.train_recipe import TrainedRecipe
from emi_ray.workspace import Workspace


def write_run(
    workspace: Workspace,
    folder: str,
    trained: TrainedRecipe,
    data: ClipData,
    description: ModelDescription,
    finish: Callable[[], Mapping[str, Any]],
) -> dict[str, Any]:
    """Predict and score the clips of a trained run, and write all of its files. Existing files are replaced.

    Args:
        workspace: receives the files.
        folder: folder of the run, relative to the workspace.
        trained: the trained recipe.
        data: all clips.
        description: description of the model.
        finish: called last; returns the entries of ``metrics.json`` about place and duration of the training.

    Returns:
        The content of ``metrics.json``; a score that is undefined (constant label) is None.
    """
    import pandas as pd  # not at the top, so that a training starts sooner

    recipe = description.recipe
    final = final_rows(recipe, data, trained.rows)
    test = np.flatnonzero(data.splits == "test")
    shown = np.concatenate([final.val, test])
    predictions = predict_rows(trained.model, data, shown)
    split_names = np.repeat(["val", "test"], [len(final.val), len(test)])
    val_scores = compute_scores(predictions[: len(final.val)], data.targets[final.val], data.labels)
    last = trained.results[FUSION if recipe.fusion else recipe.streams[0]]
    metrics = {
        "recipe": recipe.name,
        "seed": description.seed,
        **val_scores,
        "constant_labels": [
            label.name for label in data.labels if math.isnan(val_scores[label_score(label.name)])
        ],
        "num_train": len(final.train),
        "num_inner": 0 if final.inner is None else len(final.inner),
        "stopped_by": _stopped_by(recipe, final),
        "val_pearson_chosen_on_val": max((e["val_pearson"] for e in last.history), key=_nan_last),
        "num_left_out": {
            name: len(part) - len(final.parts()[name]) for name, part in trained.rows.parts().items()
        },
        "num_missing": {
            modality: int(
                (~data.features[modality].present[np.concatenate(list(final.parts().values()))]).sum()
            )
            for modality in recipe.streams
        },
        "num_parameters": sum(parameter.numel() for parameter in trained.model.parameters()),
        "num_workers": Team.current().size,
        "best_epoch": last.best_epoch,
        "stages": {m: _stage(m, trained) for m in recipe.streams if m in trained.results},
        "run_key": description.run_key,
    }
    tokenizer = (
        # Loaded before anything is replaced, because this can fail.
        load_tokenizer(recipe.encoders[recipe.transcript_stream]) if recipe.transcript_stream else None
    )
    # From here on there is no finished run and no model: the files are replaced one after another.
    workspace.delete_file(f"{folder}/{METRICS}")
    workspace.delete_file(f"{folder}/{DESCRIPTION}")
    history = pd.DataFrame(trained.history).drop(columns=["num_val", "num_labels_scored"])
    workspace.write_text(f"{folder}/{HISTORY}", history.to_csv(index=False))
    table = build_predictions_table(data, shown, split_names, predictions, recipe)
    workspace.write_table(f"{folder}/{PREDICTIONS}", table)
    workspace.write_table(f"{folder}/{STAGES}", stage_predictions(recipe, trained, data))
    workspace.write_table(f"{folder}/{SPLIT}", _split_table(data, final))
    workspace.write_text(f"{folder}/{RECIPE}", dump_yaml(recipe))
    workspace.write_json(f"{folder}/{VERSIONS}", description.versions)
    if tokenizer is not None:
        workspace.write_text(f"{folder}/{TOKENIZER}", dump_tokenizer(tokenizer))
    save_model(workspace, folder, trained.model, description)
    metrics = without_nan({**metrics, **finish()})
    workspace.write_json(f"{folder}/{METRICS}", metrics)
    return metrics


def final_rows(recipe: Recipe, data: ClipData, rows: Rows) -> Rows:
    """Return the clips that the whole system is trained and scored on."""
    return rows if scores_clips_without_input(recipe) else rows.with_any_of(data, recipe.streams)


def scored_clips(recipe: Recipe, data: ClipData) -> np.ndarray:
    """Return which clips, (N,) bool, count in the scores of the whole system: those with an input that it reads."""
    if scores_clips_without_input(recipe):
        return np.full(len(data), True)
    readable: np.ndarray = np.any([data.features[m].present for m in recipe.streams], axis=0)
    return readable


def scores_clips_without_input(recipe: Recipe) -> bool:
    """Return whether a recipe with one encoder is also scored on clips without its modality, as zero vectors."""
    return recipe.fusion is None and recipe.encoders[recipe.streams[0]].missing == "zero"


def predict_rows(model: Regressor, data: ClipData, rows: np.ndarray) -> np.ndarray:
    """Predict rows (n,) in this process; returns (n, L) float64 in the units of the labels."""
    if not len(rows):
        return np.empty((0, len(data.labels)))
    device = next(model.parameters()).device
    return data.in_units(predict_unit_scale(model, Batcher(data, model.modalities, device), rows))


def build_predictions_table(
    data: ClipData, rows: np.ndarray, split_names: np.ndarray, predictions: np.ndarray, recipe: Recipe
) -> pa.Table:
    """Build the table of ``predictions.parquet``.

    Its columns are ``clip_id``, ``split``, one column per label, ``true_<label>`` (null if unknown), ``modalities``
    (those of the clip, joined by commas), and ``scored`` (whether the clip counts in the scores).
    """
    columns: dict[str, Any] = {"clip_id": data.clip_ids[rows], "split": split_names}
    for index, label in enumerate(data.labels):
        columns[label.name] = predictions[:, index]
    for index, label in enumerate(data.labels):
        truth = data.targets[rows, index].astype(np.float64)
        columns[f"{TRUE_PREFIX}{label.name}"] = pa.array(truth, mask=np.isnan(truth))
    columns["modalities"] = [modalities_of(data, recipe, row) for row in rows]
    labelled = np.isfinite(data.targets).any(axis=1)
    columns[SCORED] = (labelled & scored_clips(recipe, data))[rows]
    return pa.table(columns)


def modalities_of(data: ClipData, recipe: Recipe, row: int) -> str:
    """Return the modalities of a clip that a recipe reads, joined by commas."""
    there = (name for name in recipe.streams if data.features[name].present[row])
    return ",".join(dict.fromkeys(recipe.modality_of(name) for name in there))


def read_split(workspace: Workspace, folder: str, data: ClipData) -> Rows:
    """Read which clips a run was trained and validated on; the current splits of the corpus do not matter.

    Raises:
        UserError: some of these clips are no longer in the corpus.
    """
    table = workspace.read_table(f"{folder}/{SPLIT}")
    row_of = {clip_id: row for row, clip_id in enumerate(data.clip_ids.tolist())}
    rows: dict[str, list[int]] = {"train": [], "val": [], "inner": []}
    for clip_id, split in zip(table["clip_id"].to_pylist(), table["split"].to_pylist(), strict=True):
        if clip_id not in row_of:
            raise UserError(
                f"{folder} was trained with clip '{clip_id}', which the corpus no longer has: train again."
            )
        rows[split].append(row_of[clip_id])
    inner = np.sort(rows["inner"]) if rows["inner"] else None
    return Rows(np.sort(rows["train"]), np.sort(rows["val"]), inner)


def _split_table(data: ClipData, rows: Rows) -> pa.Table:
    parts = rows.parts()
    seen = np.concatenate(list(parts.values()))
    columns = {
        "clip_id": data.clip_ids[seen],
        "split": np.repeat(list(parts), [len(part) for part in parts.values()]),
    }
    for stream, features in data.features.items():
        if features.digests is not None:
            columns[_digest_column(stream)] = features.digests[seen]
    return pa.table(columns)


def changed_since(
    workspace: Workspace, folder: str, now: Mapping[EncoderName, Mapping[str, str]]
) -> dict[EncoderName, list[str]]:
    """Return by encoder the clips of a run whose features have changed since. Encoders without any are left out.

    Encoders whose features were not hashed when the run was trained are left out as well.

    Args:
        now: by encoder and clip, the hashes of the present features; see :func:`digests_in` and
            :func:`digests_in_stores`.
    """
    table = workspace.read_table(f"{folder}/{SPLIT}")
    changed: dict[EncoderName, list[str]] = {}
    for stream, digests in now.items():
        if _digest_column(stream) not in table.column_names:
            continue
        seen = zip(table["clip_id"].to_pylist(), table[_digest_column(stream)].to_pylist(), strict=True)
        if ids := [clip_id for clip_id, digest in seen if digests.get(clip_id) != digest]:
            changed[stream] = ids
    return changed


def digests_in(data: ClipData) -> dict[EncoderName, dict[str, str]]:
    """Return by encoder and clip the hashes of the features that were read."""
    return {
        stream: dict(zip(data.clip_ids.tolist(), features.digests.tolist(), strict=True))
        for stream, features in data.features.items()
        if features.digests is not None
    }


def digests_in_stores(
    stores: Mapping[EncoderName, FeatureStore], clip_ids: pa.Array
) -> dict[EncoderName, dict[str, str]]:
    """Return by encoder and clip the hashes of features in stores, without reading the features."""
    return {
        stream: dict(zip(clip_ids.to_pylist(), digests_of(store, clip_ids).tolist(), strict=True))
        for stream, store in stores.items()
    }


def _digest_column(stream: EncoderName) -> str:
    """Column of ``split.parquet`` with the hashes of an encoder's features."""
    return f"digest_{stream}"


def _nan_last(value: float) -> float:
    # max() would return NaN if it comes first, because every comparison with NaN is false.
    return float("-inf") if math.isnan(value) else value


def _stopped_by(recipe: Recipe, rows: Rows) -> str:
    """Return which clips selected the best epoch: ``folds``, the ``inner`` part of train, or ``val``."""
    if recipe.fusion is not None and recipe.fusion.type == "late":
        return "folds"
    return "val" if rows.inner is None else "inner"


def without_nan(value: Any) -> Any:
    """Replace NaN by None in nested dictionaries, because JSON has no NaN."""
    if isinstance(value, dict):
        return {key: without_nan(part) for key, part in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def _stage(stage: str, trained: TrainedRecipe) -> dict[str, Any]:
    result: StageResult = trained.results[stage]
    return {
        **result.scores,
        "num_train": result.num_train,
        "best_epoch": result.best_epoch,
        "seconds": round(result.seconds, 3),
        "reused": stage in trained.reused,
        "encoder": trained.encoder_keys.get(stage),
    }
