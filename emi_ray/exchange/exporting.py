"""Export features of the store as float32 arrays, one file per clip.

Every float16 is exactly representable as float32: features that were float16 originally are exported bit by bit,
others as they were rounded when they were stored.
"""

import io
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import pandas as pd

from emi_ray.errors import UserError, choices
from emi_ray.exchange.layouts import EXPORTS, Part
from emi_ray.schema import EMOTIONS, Modality, labels_of
from emi_ray.spreadsheets import safe_cell
from emi_ray.store.failures import read_failures
from emi_ray.store.feature_store import FeatureStore, full_stores
from emi_ray.store.transcript_store import transcript_stores
from emi_ray.workspace import Workspace

PICKLE_PROTOCOL = 4
"""Readable by every Python 3."""

_SPLIT_FILES = {"train": "train_split.csv", "val": "valid_split.csv", "test": "test_split.csv"}

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Exported:
    """The files written for one modality. ``num_zeros`` clips without features got a vector of zeros."""

    modality: Modality
    fingerprint: str
    place: str
    num_clips: int
    num_zeros: int = 0


def export_features(
    workspace: Workspace,
    layout: str,
    to: str,
    modality: Modality | None = None,
    *,
    features: str | None = None,
    on_progress: Progress = lambda done, total, title: None,
) -> list[Exported]:
    """Write features in the layout of another program.

    ``mimicmetrics``: pickled arrays, (D,) for text with one step and (T, D) otherwise, a vector of zeros for a clip
    without text; and the split CSVs if the labels are the six emotions. ``folder``: ``<id>.npy`` (T, D).

    Args:
        layout: a key of ``EXPORTS``.
        to: the folder to write into; a local path or a URI.
        modality: only this modality; required for ``folder`` if there are several.
        features: fingerprint or extractor name, required if a modality has several sets of features.

    Raises:
        UserError: the layout is unknown, there are no features, or the choice among several is missing.
    """
    if layout not in EXPORTS:
        raise UserError(f"--layout '{layout}': {choices(layout, EXPORTS)}")
    chosen = [modality] if modality else [m for m in EXPORTS[layout] if full_stores(workspace, m)]
    if not chosen:
        raise UserError(f"{workspace.root} has no features yet. Run emi-ray extract.")
    if layout == "folder" and len(chosen) > 1:
        raise UserError(f"--layout folder has one modality. Add --modality, one of: {', '.join(chosen)}.")
    stores = [_choose(workspace, m, features) for m in chosen]
    for store in stores:
        for clip_id in [*store.clip_ids(), *_zeros(store, EXPORTS[layout][store.modality])]:
            _path(
                EXPORTS[layout][store.modality], clip_id
            )  # check all names before the first file is written
    target = Workspace(to)
    done = [_export(store, target, layout, EXPORTS[layout][store.modality], on_progress) for store in stores]
    if layout == "mimicmetrics":
        _write_splits(workspace, target)
    return done


def export_transcripts(workspace: Workspace, to: str) -> tuple[str, int]:
    """Write ``transcripts.csv`` into a folder: ``clip_id, transcript, origin`` of every clip with a transcript.

    ``origin`` is ``corpus``, or the fingerprint of the recogniser; if there are several, the first by name.

    Returns:
        The path of the file, and the number of transcripts.

    Raises:
        UserError: no clip has a transcript.
    """
    clips = workspace.clips()
    given = dict(zip(clips["clip_id"].to_pylist(), clips["transcript"].to_pylist(), strict=True))
    rows = [(clip_id, text, "corpus") for clip_id, text in given.items() if text]
    told = {clip_id for clip_id, _, _ in rows}
    for store in transcript_stores(workspace):
        new = [(i, text, store.fingerprint) for i, text in store.read().items() if text and i not in told]
        told.update(clip_id for clip_id, _, _ in new)
        rows += new
    if not rows:
        raise UserError(
            f"{workspace.root} has no transcripts. Add them to the corpus, or set transcriber.name=whisper and "
            "extract text."
        )
    table = pd.DataFrame(sorted(rows), columns=["clip_id", "transcript", "origin"])
    return _write_table(table, to, "transcripts.csv"), len(rows)


def export_failures(workspace: Workspace, to: str) -> tuple[str, int]:
    """Write ``failures.csv`` into a folder: a row for each clip and extractor that gave no features, with the reason.

    Stage ``missing`` means that the clip lacks the input.

    Returns:
        The path of the file, and the number of its rows.
    """
    workspace.config()  # says so if there is no workspace
    table = read_failures(workspace).select(
        ["clip_id", "modality", "stage", "error", "attempt", "fingerprint"]
    )
    rows = table.sort_by([("clip_id", "ascending"), ("modality", "ascending")]).to_pandas()
    return _write_table(rows.astype(str), to, "failures.csv"), len(rows)


def _write_table(table: pd.DataFrame, to: str, name: str) -> str:
    """Write a table of text as a CSV file into a folder. Returns the path of the file."""
    target = Workspace(to)
    target.write_text(name, table.map(safe_cell).to_csv(index=False))
    return target.path(name)


def _choose(workspace: Workspace, modality: Modality, features: str | None) -> FeatureStore:
    held = {store: str(store.describe()["extractor"]) for store in full_stores(workspace, modality)}
    fitting = [store for store, name in held.items() if features in (None, name, store.fingerprint)]
    if len(fitting) == 1:
        return fitting[0]
    listing = ", ".join(f"{store.fingerprint} ({name})" for store, name in held.items()) or "none"
    problem = "several sets of" if fitting else "no"
    wanted = f" called '{features}'" if features else ""
    raise UserError(
        f"{workspace.root} has {problem} {modality} features{wanted}; available: {listing}. "
        "Choose with --features FINGERPRINT."
    )


def _export(
    store: FeatureStore, target: Workspace, layout: str, part: Part, on_progress: Progress
) -> Exported:
    total, write = len(store.clip_ids()), _WRITERS[layout]
    for done, row in enumerate(store.rows(), start=1):
        values = row.values.astype(np.float32)
        as_vector = store.modality == "text" and len(values) == 1
        write(
            target, _path(part, row.clip_id), values[0] if as_vector and layout == "mimicmetrics" else values
        )
        on_progress(done, total, f"Exporting {store.modality}")
    without = _zeros(store, part)
    for clip_id in without:
        write(target, _path(part, clip_id), np.zeros(store.feature_dim, np.float32))
    return Exported(store.modality, store.fingerprint, target.path(part.folder), total, len(without))


def _zeros(store: FeatureStore, part: Part) -> Sequence[str]:
    """Return the ids of clips that get a vector of zeros: those that lack the input, not those that failed."""
    if not part.zero_is_missing:
        return []
    failures = read_failures(store.workspace, [store]).to_pylist()
    return [row["clip_id"] for row in failures if row["stage"] == "missing"]


def _path(part: Part, clip_id: str) -> str:
    """Return the path of a clip's file, without its suffix.

    Raises:
        UserError: the id would lead out of the folder.
    """
    if PurePosixPath(clip_id).is_absolute() or ".." in PurePosixPath(clip_id).parts:
        raise UserError(f"clip_id '{clip_id}' cannot be the name of a file. Rename the clip.")
    return f"{part.folder}/{clip_id}".lstrip("/")


def _write_pickle(target: Workspace, path: str, values: np.ndarray) -> None:
    target.write_bytes(f"{path}.pkl", pickle.dumps(np.ascontiguousarray(values), PICKLE_PROTOCOL))


def _write_npy(target: Workspace, path: str, values: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    target.write_bytes(f"{path}.npy", buffer.getvalue())


_WRITERS: Mapping[str, Callable[[Workspace, str, np.ndarray], None]] = {
    "mimicmetrics": _write_pickle,
    "folder": _write_npy,
}


def _write_splits(workspace: Workspace, target: Workspace) -> None:
    """Write the split CSVs of Hume-Vidmimic2 if the labels are the six emotions."""
    clips = workspace.clips()
    if tuple(label.name for label in labels_of(clips.schema)) != EMOTIONS:
        return
    table = clips.select(["clip_id", "split", *EMOTIONS]).to_pandas().rename(columns={"clip_id": "Filename"})
    for split, name in _SPLIT_FILES.items():
        rows: pd.DataFrame = table[table["split"] == split].drop(columns="split")
        if len(rows):
            rows["Filename"] = rows["Filename"].map(safe_cell)
            wanted = rows[["Filename"]] if split == "test" else rows
            target.write_text(name, wanted.to_csv(index=False))
