"""Predictions of a run, ``predictions.parquet`` and ``stages.parquet``, with the true values of the clips."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from emi_ray.schema import TRUE_PREFIX
from emi_ray.workspace import Workspace

PREDICTIONS = "predictions.parquet"
STAGES = "stages.parquet"

SCORED = "scored"
"""Column of ``predictions.parquet``: whether a clip counts in the scores."""


@dataclass(frozen=True)
class ScoredPredictions:
    """Predictions and true values of one run, or of one stage of it, for the N clips that it is scored on.

    ``predicted`` and ``true`` are (N, L) in the units of the labels; unknown values in ``true`` are NaN.
    """

    clip_ids: tuple[str, ...]
    labels: tuple[str, ...]
    predicted: np.ndarray
    true: np.ndarray

    def at(self, clip_ids: Sequence[str]) -> "ScoredPredictions":
        """Select some of the clips, in the given order."""
        row_of = {clip_id: row for row, clip_id in enumerate(self.clip_ids)}
        rows = [row_of[clip_id] for clip_id in clip_ids]
        return ScoredPredictions(tuple(clip_ids), self.labels, self.predicted[rows], self.true[rows])

    def of(self, labels: Sequence[str]) -> "ScoredPredictions":
        """Select some of the labels, in the given order."""
        columns = [self.labels.index(label) for label in labels]
        return ScoredPredictions(
            self.clip_ids, tuple(labels), self.predicted[:, columns], self.true[:, columns]
        )


def read_scored_predictions(
    workspace: Workspace, folder: str, split: Literal["val", "test"] = "val"
) -> ScoredPredictions | None:
    """Read a run's predictions of its scored clips; None if there are none with labels."""
    if not workspace.exists(f"{folder}/{PREDICTIONS}"):
        return None
    table = workspace.read_table(f"{folder}/{PREDICTIONS}")
    table = table.filter(pc.equal(table["split"], split))
    # Files of earlier versions lack the column.
    if SCORED in table.column_names:
        table = table.filter(table[SCORED])
    labels = tuple(
        name.removeprefix(TRUE_PREFIX) for name in table.column_names if name.startswith(TRUE_PREFIX)
    )
    if not labels or not table.num_rows:
        return None
    true = _columns(table, [f"{TRUE_PREFIX}{label}" for label in labels])
    return ScoredPredictions(tuple(table["clip_id"].to_pylist()), labels, _columns(table, labels), true)


def read_stage_predictions(workspace: Workspace, folder: str) -> dict[str, ScoredPredictions]:
    """Read the stage-1 predictions of a run by modality, for the validation clips that the run was scored on."""
    whole = read_scored_predictions(workspace, folder)
    if whole is None or not workspace.exists(f"{folder}/{STAGES}"):
        return {}
    table = workspace.read_table(f"{folder}/{STAGES}")
    found = {}
    for stage in dict.fromkeys(table["stage"].to_pylist()):
        of_stage = table.filter(pc.equal(table["stage"], stage))
        # A stage may be scored on clips that the whole run is not scored on.
        of_stage = of_stage.filter(pc.is_in(of_stage["clip_id"], pa.array(whole.clip_ids, pa.string())))
        clip_ids = tuple(of_stage["clip_id"].to_pylist())
        found[stage] = ScoredPredictions(
            clip_ids, whole.labels, _columns(of_stage, whole.labels), whole.at(clip_ids).true
        )
    return found


def _columns(table: pa.Table, names: Sequence[str]) -> np.ndarray:
    """Return columns as an array (N, L) float64, with NaN for null."""
    return np.stack([np.asarray(table[name].to_numpy(), dtype=np.float64) for name in names], axis=1)
