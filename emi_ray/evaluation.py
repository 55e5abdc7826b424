"""Scores of a trained run, predictions of any clips with features, and the challenge's submission form."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from emi_ray.errors import UserError
from emi_ray.feature_store import FeatureStore
from emi_ray.metrics import scores
from emi_ray.output import write_output
from emi_ray.recipe import Recipe
from emi_ray.schema import SPLITS, Label, Split, Stream
from emi_ray.spreadsheets import may_execute, safe_cell
from emi_ray.training.checkpoint import LoadedModel, find_run, load_model
from emi_ray.training.clip_data import ClipData, PackedFeatures, read_clip_data, read_packed
from emi_ray.training.inputs import read_transcripts
from emi_ray.training.rows import Rows
from emi_ray.training.run_files import (
    changed_since,
    modalities_of,
    predict_in_units,
    read_split,
    scored_clips,
    without_nan,
)
from emi_ray.transcript_store import TranscriptStore
from emi_ray.workspace import Workspace


def evaluate_run(workspace: Workspace, run: str, splits: Sequence[Split] = SPLITS) -> dict[str, Any]:
    """Score a run on each of ``splits`` that has labels, and write ``evaluation.json`` beside its model.

    The labels are the run's own, found in the corpus by name.

    Args:
        run: ``f2/42``, or ``f2`` where that recipe has one seed only.

    Returns:
        ``recipe``, ``seed``, and by split the scores (``val_pearson``, ``num_val``, …; None for a score that
        does not exist). Train and val are the very clips that the run was trained and validated on. A split
        without labels is not there. One rule for all splits: clips without any of the model's modalities do not
        count, unless its recipe answers for them.

    Raises:
        UserError: no such run, the workspace lacks the features that it was trained on or holds others of the same
            clips, or the corpus lost clips or labels.
    """
    found = read_run(workspace, run)
    recipe = found.loaded.description.recipe
    result: dict[str, Any] = {"recipe": recipe.name, "seed": found.loaded.description.seed}
    for split in splits:
        chosen = _rows_of(split, found.rows, found.data, recipe)
        if len(chosen):
            predictions = predict_in_units(found.loaded.model, found.data, chosen)
            result[split] = scores(predictions, found.data.targets[chosen], found.data.labels, split)
    result = without_nan(result)
    workspace.write_json(f"{found.folder}/evaluation.json", result)
    return result


@dataclass(frozen=True)
class RunData:
    """A run's model, its folder, the clips of the corpus with the features that it reads, and which it saw."""

    loaded: LoadedModel
    folder: str
    data: ClipData
    rows: Rows


def read_run(workspace: Workspace, run: str) -> RunData:
    """Load a run and everything that its scores need.

    Raises:
        UserError: as :func:`evaluate_run`.
    """
    loaded = load_model(workspace, run)
    description = loaded.description
    stores = description.stores(workspace)
    for store in stores.values():
        if not store.parts():
            raise UserError(
                f"{workspace.path(store.folder)} holds no features, but {run} needs them: "
                f"emi-ray extract -w {workspace.quoted} --modalities {store.modality}."
            )
    folder = find_run(workspace, run)
    plain = read_clip_data(workspace, stores, extras=description.recipe.extras)
    plain = plain.labelled(description.labels)
    rows = read_split(workspace, folder, plain)
    _refuse_changed(workspace, folder, plain)
    data = loaded.tokens(plain, read_transcripts(workspace.clips(), transcripts_of(workspace, loaded)))
    return RunData(loaded, folder, data, rows)


def transcripts_of(workspace: Workspace, loaded: LoadedModel) -> TranscriptStore | None:
    """The transcripts of the recogniser that a model's text backbone was trained on; None where it has none."""
    transcriber = loaded.description.transcriber
    return None if transcriber is None else TranscriptStore(workspace, transcriber["fingerprint"])


def _refuse_changed(workspace: Workspace, folder: str, data: ClipData) -> None:
    changed = changed_since(workspace, folder, data)
    if not changed:
        return
    recipe, seed = folder.split("/")[1:]
    what = "; ".join(f"{m} of {len(ids)} ({', '.join(ids[:3])})" for m, ids in changed.items())
    raise UserError(
        f"{folder} was trained when some of its clips had other features: {what}. Train it again: emi-ray train -w "
        f"{workspace.quoted} {recipe} --seed {seed}."
    )


def predict_features(
    loaded: LoadedModel,
    stores: Mapping[Stream, FeatureStore],
    clip_ids: Sequence[str],
    transcripts: Mapping[str, str] | None = None,
) -> pa.Table:
    """Predict clips, labelled or not, from their features.

    Args:
        stores: by encoder, where the features lie; one that is not given is missing for all clips.
        transcripts: by clip id, what a fine-tuned text backbone reads.

    Returns:
        One row for each of ``clip_ids``, in their order: ``clip_id``; one column a label, in its units and
        not clipped; ``modalities``, those that the clip had, joined by commas. Where that is empty the
        numbers are what the model says knowing nothing.

    Raises:
        UserError: a store holds other features than the model was trained on.
    """
    loaded.require(stores)
    recipe = loaded.description.recipe
    ids = pa.array(clip_ids, pa.string())
    features = {
        stream: read_packed(stores[stream], ids, extras=recipe.encoders[stream].extras)
        if stream in stores
        else _missing(loaded, stream, len(ids))
        for stream in loaded.model.modalities
        if stream in loaded.description.extractors
    }
    labels = loaded.description.labels
    targets = np.full((len(ids), len(labels)), np.nan, dtype=np.float32)
    data = ClipData(np.array(clip_ids, dtype=str), np.full(len(ids), "test"), features, targets, labels)
    data = loaded.tokens(data, transcripts or {})
    predictions = predict_in_units(loaded.model, data, np.arange(len(ids)))
    had = [modalities_of(data, recipe, row) for row in range(len(ids))]
    columns = {label.name: predictions[:, index] for index, label in enumerate(labels)}
    return pa.table({"clip_id": ids, **columns, "modalities": pa.array(had, pa.string())})


def predict_table(workspace: Workspace, loaded: LoadedModel, clips: pa.Table) -> pa.Table:
    """Predict clips of a table like ``clips.parquet`` from the features that a workspace holds of them, as of
    :func:`predict_features`."""
    texts = read_transcripts(clips, transcripts_of(workspace, loaded))
    stores = loaded.description.stores(workspace)
    return predict_features(loaded, stores, clips["clip_id"].to_pylist(), texts)


def as_intensities(table: pa.Table, labels: Sequence[Label]) -> pa.Table:
    """Predictions, as of :func:`predict_features`, clipped to the ranges of the labels; null for clips without any
    modality that the model reads. Ids and names of labels are those that a spreadsheet does not execute."""
    known = pc.not_equal(table["modalities"], "")
    for label in labels:
        clipped = pa.array(_clipped(table, label))
        shown = pc.if_else(known, clipped, pa.scalar(None, clipped.type))
        table = table.set_column(table.column_names.index(label.name), label.name, shown)
    ids = pa.array([safe_cell(clip_id) for clip_id in table["clip_id"].to_pylist()], pa.string())
    place = table.column_names.index("clip_id")
    return table.set_column(place, "clip_id", ids).rename_columns(list(map(safe_cell, table.column_names)))


def write_submission(
    table: pa.Table, path: str | Path, labels: Sequence[Label], id_width: int | None = None
) -> None:
    """Write predictions as the challenge wants them: ``Filename,Admiration,…``, one row a clip.

    Args:
        table: ``clip_id`` and one column a label, as of :func:`predict_features` or ``predictions.parquet``.
        path: of a file, on a disk or behind a URI; it appears whole.
        labels: the columns, in order; predictions are clipped to their ranges.
        id_width: pad ids with zeros to this many digits; None leaves them as they are spelt.

    Raises:
        UserError: a clip stands in the table twice, or its id is a formula, which a submission cannot spell safely.
    """
    ids = [str(clip_id) for clip_id in table["clip_id"].to_pylist()]
    if len(set(ids)) < len(ids):
        twice = next(clip_id for clip_id in ids if ids.count(clip_id) > 1)
        raise UserError(f"{path}: clip '{twice}' has several predictions; a submission has one row a clip.")
    if formula := next(
        (text for text in [*ids, *(label.name for label in labels)] if may_execute(text)), None
    ):
        raise UserError(
            f"{path}: a spreadsheet would execute '{formula}', and a submission spells ids and labels as they are. "
            "Rename it, or write --form table."
        )
    columns: dict[str, Any] = {"Filename": [clip_id.zfill(id_width or 0) for clip_id in ids]}
    for label in labels:
        columns[label.name] = _clipped(table, label)
    write_output(str(path), pd.DataFrame(columns).to_csv(index=False, float_format="%.6f").encode())


def _clipped(table: pa.Table, label: Label) -> np.ndarray:
    return table[label.name].to_numpy().clip(label.low, label.high)


def _rows_of(split: Split, rows: Rows, data: ClipData, recipe: Recipe) -> np.ndarray:
    if split == "train":
        return rows.train
    if split == "val":
        return rows.val
    labelled = np.isfinite(data.targets).any(axis=1) & (data.splits == "test")
    return np.flatnonzero(labelled & scored_clips(recipe, data))


def _missing(loaded: LoadedModel, stream: Stream, num_clips: int) -> PackedFeatures:
    feature_dim = loaded.description.feature_dim(stream)
    zeros = np.zeros(num_clips, dtype=np.int64)
    nothing = np.empty((0, feature_dim), dtype=np.float16)
    return PackedFeatures(nothing, zeros, zeros, zeros > 0, loaded.description.fingerprint(stream))
