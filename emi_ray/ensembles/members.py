"""The member runs of an ensemble: their folders, common labels, clips and true values."""

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from emi_ray.ensembles.files import ENSEMBLE
from emi_ray.errors import UserError
from emi_ray.results.predictions import SCORED
from emi_ray.results.runs import DESCRIPTION, METRICS, SPLIT, run_folder
from emi_ray.schema import TRUE_PREFIX
from emi_ray.training.checkpoint import find_run
from emi_ray.wording import plural
from emi_ray.workspace import Workspace

NUM_FOLDS = 5

_LOG = logging.getLogger(__name__)


def member_folders(workspace: Workspace, runs: Sequence[str]) -> list[str]:
    """Return the folders of the member runs; a recipe means all of its seeds.

    Raises:
        UserError: there are fewer than two runs, or one is missing, unfinished or an ensemble itself.
    """
    folders: list[str] = []
    for run in runs:
        name = run.strip("/").removeprefix("runs/")
        seeds = workspace.folders(f"runs/{name}") if "/" not in name else []
        # A name without seed stands for all its seeds; find_run raises the error if there are none.
        folders += [run_folder(name, seed) for seed in seeds] or [find_run(workspace, run)]
    # A run that is named twice must not count twice in the mean.
    folders = list(dict.fromkeys(folders))
    if len(folders) < 2:
        raise UserError("An ensemble needs at least two runs: name several, or a recipe with several seeds.")
    for folder in folders:
        if workspace.exists(f"{folder}/{ENSEMBLE}"):
            raise UserError(f"{folder} is an ensemble itself: name its members instead.")
        if not workspace.exists(f"{folder}/{METRICS}"):
            raise UserError(f"{folder} is not finished: finish it with emi-ray train.")
    return folders


def common_labels(workspace: Workspace, folders: Sequence[str], tables: Mapping[str, pa.Table]) -> list[str]:
    """Return the names of the labels that all runs predict.

    Raises:
        UserError: the runs predict different labels, or an earlier version of the package made one of them.
    """
    first = workspace.read_json(f"{folders[0]}/{DESCRIPTION}")["labels"]
    for folder in folders:
        if workspace.read_json(f"{folder}/{DESCRIPTION}")["labels"] != first:
            raise UserError(
                f"{folders[0]} and {folder} predict different labels, so they cannot form an ensemble."
            )
        if "modalities" not in tables[folder].column_names:
            raise UserError(
                f"{folder} was trained by an earlier version, which did not store modalities: train it again."
            )
    return [label["name"] for label in first]


def validation_clips(
    workspace: Workspace, folders: Sequence[str], tables: Mapping[str, pa.Table]
) -> list[str]:
    """Return the ids of the clips that some run was validated on and no run was trained on.

    Clips of a run's held-out inner part also count as training clips, because they selected its best epoch.

    Raises:
        UserError: there are fewer such clips than folds.
    """
    learnt: set[str] = set()
    for folder in folders:
        split = workspace.read_table(f"{folder}/{SPLIT}")
        learnt |= set(split.filter(pc.not_equal(split["split"], "val"))["clip_id"].to_pylist())
    clips: dict[str, None] = {}
    for table in tables.values():
        selected = table.filter(pc.and_(pc.equal(table["split"], "val"), table[SCORED]))
        clips |= dict.fromkeys(
            clip_id for clip_id in selected["clip_id"].to_pylist() if clip_id not in learnt
        )
    if len(clips) < NUM_FOLDS:
        raise UserError(
            f"Only {len(clips)} validation clips were in no run's training set, and the weights need at least "
            f"{NUM_FOLDS}: use more validation clips, and train all runs on the same split."
        )
    return list(clips)


def test_clips(workspace: Workspace, folders: Sequence[str], tables: Mapping[str, pa.Table]) -> list[str]:
    """Return the ids of the test clips of all runs that no run was trained or validated on, without duplicates."""
    seen: set[str] = set()
    for folder in folders:
        seen |= set(workspace.read_table(f"{folder}/{SPLIT}")["clip_id"].to_pylist())
    clips: dict[str, None] = {}
    for table in tables.values():
        clips |= dict.fromkeys(table.filter(pc.equal(table["split"], "test"))["clip_id"].to_pylist())
    if known := clips.keys() & seen:
        _LOG.warning(
            "%s of one run, for example %s, %s another run's training or validation: they are left out. Train all "
            "runs on the same splits.",
            plural(len(known), "test clip"),
            min(known),
            "is in" if len(known) == 1 else "are in",
        )
    return [clip_id for clip_id in clips if clip_id not in seen]


def rows_at(table: pa.Table, clip_ids: Sequence[str]) -> pa.Table:
    """Return the rows of some clips in the given order; a clip that the table lacks gets nulls and no modalities."""
    place = pc.index_in(pa.array(clip_ids, pa.string()), table["clip_id"].combine_chunks())
    taken = table.take(place)
    column = taken.column_names.index("modalities")
    # take() gives nulls for clips that are not in the table.
    taken = taken.set_column(column, "modalities", pc.fill_null(taken["modalities"], ""))
    return taken.set_column(0, "clip_id", pa.array(clip_ids, pa.string()))


def true_values(tables: Mapping[str, pa.Table], clip_ids: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """Return the true values (N, L) of some clips, NaN for unknown ones.

    Raises:
        UserError: two runs were scored against different values.
    """
    truth = np.full((len(clip_ids), len(labels)), np.nan)
    for folder, table in tables.items():
        selected = rows_at(table, clip_ids)
        values = np.stack(
            [selected[f"{TRUE_PREFIX}{label}"].to_numpy().astype(np.float64) for label in labels], axis=1
        )
        # Compared exactly: both were written from the same table of labels.
        both = np.isfinite(values) & np.isfinite(truth)
        if (values[both] != truth[both]).any():
            raise UserError(
                f"{folder} was scored against other label values than the other runs: train it again."
            )
        truth = np.where(np.isfinite(values), values, truth)
    return truth
