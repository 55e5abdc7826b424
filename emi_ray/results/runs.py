"""The files of a run, ``runs/<recipe>/<seed>/``, and what they hold as plain data.

:mod:`emi_ray.training.run_files` writes them and describes their content.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from emi_ray.metrics import label_score
from emi_ray.results.predictions import PREDICTIONS
from emi_ray.settings import read_yaml
from emi_ray.workspace import Workspace

METRICS = "metrics.json"
HISTORY = "history.csv"
RECIPE = "recipe.yaml"
VERSIONS = "versions.json"
DESCRIPTION = "model.json"
SPLIT = "split.parquet"
ROBUSTNESS = "robustness.json"
PERTURBED = "perturbed.json"

RUN_FILES = (METRICS, HISTORY, PREDICTIONS, RECIPE, VERSIONS)


def run_folder(recipe: str, seed: int | str) -> str:
    """Return the folder of a run, relative to the workspace."""
    return f"runs/{recipe}/{seed}"


@dataclass(frozen=True)
class Epoch:
    """One row of ``history.csv``; missing values are NaN."""

    stage: str
    epoch: int
    train_loss: float
    val_loss: float
    val_pearson: float


@dataclass(frozen=True)
class Run:
    """One training run; ``absent`` names its missing files."""

    recipe: str
    seed: str
    metrics: Mapping[str, Any]
    history: Sequence[Epoch]
    recipe_yaml: str | None
    versions: Mapping[str, Any]
    description: Mapping[str, Any]
    robustness: Mapping[str, Any]
    absent: tuple[str, ...]

    @property
    def folder(self) -> str:
        return run_folder(self.recipe, self.seed)

    @property
    def name(self) -> str:
        return f"{self.recipe}, seed {self.seed}"

    @property
    def run_name(self) -> str:
        """The name of the run in commands."""
        return f"{self.recipe}/{self.seed}"

    @property
    def val_pearson(self) -> float:
        """Mean validation Pearson correlation over the labels; NaN if unknown."""
        return number(self.metrics.get("val_pearson"))

    @property
    def stages(self) -> dict[str, Mapping[str, Any]]:
        """Scores of the stage-1 encoders, in the order of the modalities."""
        stages = self.metrics.get("stages") or {}
        return dict(stages)

    @property
    def modality(self) -> str | None:
        """The modality of a run without fusion; None for a fusion."""
        encoders = self.recipe_values.get("encoders") or self.stages
        return next(iter(encoders)) if len(encoders) == 1 else None

    @property
    def title(self) -> str:
        return str(self.recipe_values.get("title", ""))

    @cached_property
    def recipe_values(self) -> Mapping[str, Any]:
        """The resolved recipe; empty if its file is missing."""
        return read_yaml(self.recipe_yaml or "", f"{self.folder}/{RECIPE}")


def read_runs(workspace: Workspace) -> list[Run]:
    """Read all runs, the best first, those without scores last."""
    folders = [
        (recipe, seed) for recipe in workspace.folders("runs") for seed in workspace.folders(f"runs/{recipe}")
    ]
    runs = [_read_run(workspace, recipe, seed) for recipe, seed in folders]
    # NaN differs from itself; it must not take part in the sort, which it would make undefined.
    return sorted(runs, key=lambda run: -run.val_pearson if run.val_pearson == run.val_pearson else math.inf)


def label_scores(scores: Mapping[str, Any], labels: Sequence[str]) -> list[float]:
    """Return the validation Pearson correlation of each label; NaN if missing."""
    return [number(scores.get(label_score(label))) for label in labels]


def number(value: Any) -> float:
    """Convert a score to a float; NaN for anything that is not a number."""
    return float(value) if isinstance(value, int | float) else math.nan


def _read_run(workspace: Workspace, recipe: str, seed: str) -> Run:
    folder = run_folder(recipe, seed)
    description = workspace.read_json(path) if workspace.exists(path := f"{folder}/{DESCRIPTION}") else {}
    present = {name for name in RUN_FILES if workspace.exists(f"{folder}/{name}")}
    return Run(
        recipe=recipe,
        seed=seed,
        metrics=workspace.read_json(f"{folder}/{METRICS}") if METRICS in present else {},
        history=_history(workspace.read_text(f"{folder}/{HISTORY}")) if HISTORY in present else (),
        recipe_yaml=workspace.read_text(f"{folder}/{RECIPE}") if RECIPE in present else None,
        versions=workspace.read_json(f"{folder}/{VERSIONS}") if VERSIONS in present else {},
        description=description,
        robustness=_read_robustness(workspace, folder, description),
        absent=tuple(name for name in RUN_FILES if name not in present),
    )


def _read_robustness(workspace: Workspace, folder: str, description: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scores on harder and on perturbed clips, unless the run has been retrained with other settings."""
    found: dict[str, Any] = {}
    for path in (f"{folder}/{PERTURBED}", f"{folder}/{ROBUSTNESS}"):
        measured = workspace.read_json(path) if workspace.exists(path) else {}
        if measured.get("run_key") == description.get("run_key"):
            found.update(measured)
    return found


def _history(text: str) -> list[Epoch]:
    def score(row: Mapping[str, str | None], name: str) -> float:
        return float(row.get(name) or "nan")

    return [
        Epoch(
            stage=row["stage"],
            epoch=int(row["epoch"]),
            train_loss=score(row, "train_loss"),
            val_loss=score(row, "val_loss"),
            val_pearson=score(row, "val_pearson"),
        )
        for row in csv.DictReader(io.StringIO(text))
    ]
