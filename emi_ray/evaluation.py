"""Scoring of trained runs, prediction from features, and the challenge's submission format."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from emi_ray.errors import UserError
from emi_ray.metrics import compute_scores
from emi_ray.output import write_output
from emi_ray.recipe.schema import Recipe
from emi_ray.schema import SPLITS, EncoderName, Label, Split
from emi_ray.spreadsheets import may_execute, safe_cell
from emi_ray.store.feature_store import FeatureStore
from emi_ray.store.transcript_store import TranscriptStore
from emi_ray.training.checkpoint import LoadedModel, find_run, load_model
from emi_ray.training.data.clip_data import ClipData, PackedFeatures
from emi_ray.training.data.input_hashes import read_transcripts
from emi_ray.training.data.packed_reading import read_clip_data, read_packed
from emi_ray.training.data.split_rows import Rows
from emi_ray.training.run_files import (
    changed_since,
    digests_in,
    modalities_of,
    predict_rows,
    read_split,
    scored_clips,
    without_nan,
)
from emi_ray.wording import plural
from emi_ray.workspace import Workspace

_LOG = logging.getLogger(__name__)


def evaluate_single_run(workspace: Workspace, run: str, splits: Sequence[Split] = SPLITS) -> dict[str, Any]:
    """Score a run on each of ``splits`` that has labels, and write ``evaluation.json`` to its folder.

    The true values are those of the run's labels, which are looked up in the corpus by name. Train and val are the
    clips that the run was trained and validated on, whatever the corpus's splits are now. Test are the other clips of
    the corpus's present test split. In all splits, clips
    without any modality that the model reads are left out, unless the recipe has one encoder with ``missing: zero``.

    Args:
        workspace: holds the run and its features.
        run: ``f2/42``, or ``f2`` if that recipe has only one seed.
        splits: the splits to score.

    Returns:
        ``recipe``, ``seed``, and for each labelled split its scores (``val_pearson``, ``num_val``, …), as
        :func:`emi_ray.metrics.compute_scores` names them. A score that is not defined is None.

    Raises:
        UserError: there is no such run; the workspace lacks the features that it was trained on, or they have changed
            since; or clips or labels are no longer in the corpus.
    """
    found = read_run(workspace, run)
    recipe = found.loaded.description.recipe
    result: dict[str, Any] = {"recipe": recipe.name, "seed": found.loaded.description.seed}
    for split in splits:
        chosen = _rows_of(split, found.rows, found.data, recipe)
        if len(chosen):
            predictions = predict_rows(found.loaded.model, found.data, chosen)
            result[split] = compute_scores(predictions, found.data.targets[chosen], found.data.labels, split)
    result = without_nan(result)
    workspace.write_json(f"{found.folder}/evaluation.json", result)
    return result


@dataclass(frozen=True)
class RunData:
    """A run and the data to score it.

    Attributes:
        loaded: the model.
        folder: folder of the run, relative to the workspace.
        data: all clips of the corpus, with the features that the model reads.
        rows: the clips that the run was trained and validated on.
    """

    loaded: LoadedModel
    folder: str
    data: ClipData
    rows: Rows


def read_run(workspace: Workspace, run: str) -> RunData:
    """Load the model of a run, the features that it reads, and its split.

    Raises:
        UserError: in the same cases as :func:`evaluate_single_run`.
    """
    loaded = load_model(workspace, run)
    description = loaded.description
    stores = description.stores(workspace)
    for store in stores.values():
        if not store.parts():
            raise UserError(
                f"{workspace.path(store.folder)} has no features, which {run} needs: "
                f"emi-ray extract -w {workspace.quoted} --modalities {store.modality}."
            )
    folder = find_run(workspace, run)
    plain = read_clip_data(workspace, stores, extras=description.recipe.extras)
    # The targets are those of the model's labels, in its order, whatever labels the corpus has now.
    plain = plain.labelled(description.labels)
    rows = read_split(workspace, folder, plain)
    data = loaded.tokens(plain, read_transcripts(workspace.clips(), transcripts_of(workspace, loaded)))
    refuse_changed(workspace, folder, digests_in(data))
    return RunData(loaded, folder, data, rows)


def transcripts_of(workspace: Workspace, loaded: LoadedModel) -> TranscriptStore | None:
    """Return the store of recognised transcripts that a model's text backbone was trained on, or None."""
    transcriber = loaded.description.transcriber
    return None if transcriber is None else TranscriptStore(workspace, transcriber["fingerprint"])


def refuse_changed(
    workspace: Workspace,
    folder: str,
    now: Mapping[EncoderName, Mapping[str, str]],
    again: str = "Train it again: emi-ray train -w {workspace} {recipe} --seed {seed}.",
) -> None:
    """Check that the features of a run's clips are those that it was trained on.

    Args:
        now: as for :func:`emi_ray.training.run_files.changed_since`.
        again: the remedy.

    Raises:
        UserError: they have changed.
    """
    changed = changed_since(workspace, folder, now)
    if not changed:
        return
    recipe, seed = folder.split("/")[1:3]
    what = "; ".join(
        f"{m} of {plural(len(ids), 'clip')} ({', '.join(ids[:3])})" for m, ids in changed.items()
    )
    raise UserError(
        f"{folder} was trained on features that have changed since: {what}. "
        f"{again.format(workspace=workspace.quoted, recipe=recipe, seed=seed)}"
    )


def predict_from_stores(
    loaded: LoadedModel,
    stores: Mapping[EncoderName, FeatureStore],
    clip_ids: Sequence[str],
    transcripts: Mapping[str, str] | None = None,
) -> pa.Table:
    """Predict clips from their features; labels are not needed.

    Args:
        loaded: the model.
        stores: by encoder, the store of its features. Without a store, the encoder's input is missing for all clips.
        clip_ids: the N clips to predict.
        transcripts: by clip id, the input of a fine-tuned text backbone.

    Returns:
        One row for each of ``clip_ids``, in the same order: ``clip_id``; one column for each label, in its units and
        not limited to its range; and ``modalities``, the modalities that the clip has, joined by commas. If
        ``modalities`` is empty, the values are the model's output when every input is missing.

    Raises:
        UserError: a store has other features than the model was trained on.
    """
    loaded.require(stores)
    recipe = loaded.description.recipe
    ids = pa.array(clip_ids, pa.string())
    features = {
        stream: read_packed(stores[stream], ids, extras=recipe.encoders[stream].extras)
        if stream in stores
        else _missing(loaded, stream, len(ids))
        # A fine-tuned text backbone has no extractor; its tokens are added below.
        for stream in loaded.model.modalities
        if stream in loaded.description.extractors
    }
    labels = loaded.description.labels
    targets = np.full((len(ids), len(labels)), np.nan, dtype=np.float32)
    # Targets and splits are required by ClipData but not used for predictions.
    data = ClipData(np.array(clip_ids, dtype=str), np.full(len(ids), "test"), features, targets, labels)
    data = loaded.tokens(data, transcripts or {})
    predictions = predict_rows(loaded.model, data, np.arange(len(ids)))
    had = [modalities_of(data, recipe, row) for row in range(len(ids))]
    columns = {label.name: predictions[:, index] for index, label in enumerate(labels)}
    return pa.table({"clip_id": ids, **columns, "modalities": pa.array(had, pa.string())})


def predict_corpus_clips(workspace: Workspace, loaded: LoadedModel, clips: pa.Table) -> pa.Table:
    """Predict the clips of a table like ``clips.parquet`` from their features in a workspace.

    Returns:
        The table that :func:`predict_from_stores` returns.
    """
    texts = read_transcripts(clips, transcripts_of(workspace, loaded))
    stores = loaded.description.stores(workspace)
    return predict_from_stores(loaded, stores, clips["clip_id"].to_pylist(), texts)


def as_intensities(table: pa.Table, labels: Sequence[Label]) -> pa.Table:
    """Return predictions limited to the ranges of the labels, and null for clips without any modality of the model.

    Clip ids and label names are escaped so that a spreadsheet does not execute them as formulas.

    Args:
        table: predictions as :func:`predict_from_stores` returns them.
        labels: the labels with their ranges.
    """
    known = pc.not_equal(table["modalities"], "")
    for label in labels:
        # A regression has no bounds, so predictions may lie outside of the range.
        clipped = pa.array(_clipped(table, label))
        shown = pc.if_else(known, clipped, pa.scalar(None, clipped.type))
        table = table.set_column(table.column_names.index(label.name), label.name, shown)
    ids = pa.array([safe_cell(clip_id) for clip_id in table["clip_id"].to_pylist()], pa.string())
    # Column names are escaped too, because they are names from the corpus.
    place = table.column_names.index("clip_id")
    return table.set_column(place, "clip_id", ids).rename_columns(list(map(safe_cell, table.column_names)))


def write_submission(
    table: pa.Table, path: str | Path, labels: Sequence[Label], id_width: int | None = None
) -> None:
    """Write predictions in the challenge's submission format: ``Filename,Admiration,…``, one row per clip.

    Args:
        table: ``clip_id`` and one column per label, from :func:`predict_from_stores` or ``predictions.parquet``.
        path: local path or URI of the CSV file, which is written atomically.
        labels: the columns in order; predictions are limited to the labels' ranges.
        id_width: pad clip ids with zeros to this many digits; None leaves them unchanged.

    Raises:
        UserError: a clip occurs twice, or a spreadsheet would execute a clip id or a label as a formula.
    """
    ids = [str(clip_id) for clip_id in table["clip_id"].to_pylist()]
    if len(set(ids)) < len(ids):
        # Quadratic, but only runs to name the clip in the message.
        twice = next(clip_id for clip_id in ids if ids.count(clip_id) > 1)
        raise UserError(f"{path}: clip '{twice}' has several predictions; a submission has one row per clip.")
    if formula := next(
        (text for text in [*ids, *(label.name for label in labels)] if may_execute(text)), None
    ):
        raise UserError(
            f"{path}: a spreadsheet would execute '{formula}' as a formula, and a submission must not change ids and "
            "labels. Rename it, or write --form table."
        )
    columns: dict[str, Any] = {"Filename": [clip_id.zfill(id_width or 0) for clip_id in ids]}
    for label in labels:
        columns[label.name] = _clipped(table, label)
    write_output(str(path), pd.DataFrame(columns).to_csv(index=False, float_format="%.6f").encode())


def num_limited(table: pa.Table, labels: Sequence[Label]) -> dict[str, int]:
    """Return label → number of clips whose value is outside of the label's range, for labels with such clips.

    Clips without any modality of the model do not count.
    """
    known = table.filter(pc.not_equal(table["modalities"], ""))
    beyond = {label.name: known[label.name].to_numpy() != _clipped(known, label) for label in labels}
    return {name: int(is_beyond.sum()) for name, is_beyond in beyond.items() if is_beyond.any()}


def _clipped(table: pa.Table, label: Label) -> np.ndarray:
    return table[label.name].to_numpy().clip(label.low, label.high)


def _rows_of(split: Split, rows: Rows, data: ClipData, recipe: Recipe) -> np.ndarray:
    if split == "train":
        return rows.train
    if split == "val":
        return rows.val
    # Test clips are not in the run's split table, so they are found in the corpus.
    labelled = np.isfinite(data.targets).any(axis=1) & (data.splits == "test")
    chosen = np.flatnonzero(labelled & scored_clips(recipe, data))
    learnt = np.concatenate(list(rows.parts().values()))
    if num_learnt := int(np.isin(chosen, learnt).sum()):
        _LOG.warning(
            "%s of the present test split are training or validation clips of this run, and are not scored as test "
            "clips. Train it again on the present splits to score all of them.",
            plural(num_learnt, "clip"),
        )
    return chosen[~np.isin(chosen, learnt)]


def _missing(loaded: LoadedModel, stream: EncoderName, num_clips: int) -> PackedFeatures:
    feature_dim = loaded.description.feature_dim(stream)
    zeros = np.zeros(num_clips, dtype=np.int64)
    # Features of no steps at all: all clips have length 0 and are marked as missing.
    nothing = np.empty((0, feature_dim), dtype=np.float16)
    return PackedFeatures(nothing, zeros, zeros, zeros > 0, loaded.description.fingerprint(stream))
