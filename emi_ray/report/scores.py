"""The table of scores, and ``scores.json``."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from emi_ray.report.collect import Material
from emi_ray.report.runs import Run, label_scores, number
from emi_ray.report.score_plots import RecipeScores, run_dots

_PAPER_CORPUS = "vidmimic2"


@dataclass(frozen=True)
class ScoreRow:
    """One run in the table; ``tops`` says for which labels no run is better."""

    run: Run
    labels: Sequence[float]
    tops: Sequence[bool]

    @property
    def ccc(self) -> float:
        return number(self.run.metrics.get("val_ccc"))

    @property
    def mae(self) -> float:
        return number(self.run.metrics.get("val_mae"))

    @property
    def num_clips(self) -> int | None:
        return self.run.metrics.get("num_val")


@dataclass(frozen=True)
class SeedRow:
    """A recipe over its seeds: mean and sample standard deviation of validation Pearson."""

    recipe: str
    num_seeds: int
    mean: float
    deviation: float


@dataclass(frozen=True)
class Scores:
    """What the section of scores shows; ``notes`` are sentences under the table."""

    labels: Sequence[str]
    rows: Sequence[ScoreRow]
    seeds: Sequence[SeedRow]
    dots: str | None
    paper_heading: str
    notes: Sequence[str]


def build_scores(material: Material) -> Scores:
    """The section of scores; without rows where nothing has been scored."""
    scored = [run for run in material.runs if run.metrics]
    recipes = _by_recipe(scored)
    same_data = material.corpus_kind == _PAPER_CORPUS
    paper_label = "the paper" if same_data else "the paper, on other data"
    return Scores(
        labels=material.label_names,
        rows=_rows(scored, material.label_names),
        seeds=[
            SeedRow(
                each.recipe, len(each.scores), float(np.mean(each.scores)), float(np.std(each.scores, ddof=1))
            )
            for each in recipes
            if len(each.scores) > 1
        ],
        dots=run_dots("runs", recipes, paper_label) if len(recipes) > 1 else None,
        paper_heading="paper" if same_data else "paper (other data)",
        notes=_notes(scored, same_data),
    )


def scores_json(material: Material) -> dict[str, Any]:
    """All metrics of all runs, the best first; what is not a number is null."""
    return {
        "corpus": material.corpus_kind,
        "labels": list(material.label_names),
        "runs": [
            {
                "recipe": run.recipe,
                "seed": run.seed,
                **_jsonable(run.metrics),
                "paper_val_pearson": _jsonable(run.paper_val_pearson),
            }
            for run in material.runs
        ],
    }


def _rows(runs: Sequence[Run], labels: Sequence[str]) -> list[ScoreRow]:
    if not runs:
        return []
    values = np.array([label_scores(run.metrics, labels) for run in runs])
    tops = values == np.fmax.reduce(values, axis=0)
    return [ScoreRow(*row) for row in zip(runs, values.tolist(), tops.tolist(), strict=True)]


def _by_recipe(runs: Sequence[Run]) -> list[RecipeScores]:
    """In the order of their best run."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if not math.isnan(run.val_pearson):
            groups.setdefault(run.recipe, []).append(run)
    return [
        RecipeScores(recipe, [run.val_pearson for run in group], group[0].paper_val_pearson)
        for recipe, group in groups.items()
    ]


def _notes(runs: Sequence[Run], same_data: bool) -> list[str]:
    notes = [
        "Over the validation split; the best of each label is underlined.",
        "Epochs were chosen by these same scores, which makes them a little optimistic.",
    ]
    if len({run.metrics.get("num_val") for run in runs}) > 1:
        notes.append("Runs with different numbers of clips were not validated on the same ones.")
    if not same_data and any(not math.isnan(run.paper_val_pearson) for run in runs):
        notes.append(
            "The paper's numbers are for Hume-Vidmimic2, not for these clips: they cannot be compared."
        )
    return notes


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _jsonable(each) for key, each in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
