"""The section with the table of scores, and the content of ``scores.json``."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from emi_ray.recipe.schema import Recipe
from emi_ray.reporting.collect import Material
from emi_ray.reporting.formatting import format_score
from emi_ray.reporting.paper_scores import OTHER_FEATURES, Basis, differences_from_paper, paper_score
from emi_ray.reporting.ranking import SameClips
from emi_ray.reporting.score_plots import RecipeScores, run_dots
from emi_ray.results.runs import Run, label_scores, number


@dataclass(frozen=True)
class ScoreRow:
    """One run in the table.

    Attributes:
        run: the run.
        labels: r of each label.
        tops: for each label, whether no ranked run is better on the common clips.
        same: mean r on the common clips of the ranked runs.
        paper: the paper's score, or the reason why it is not comparable.
    """

    run: Run
    labels: Sequence[float]
    tops: Sequence[bool]
    same: float
    paper: str

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
    """Mean and sample standard deviation of the validation Pearson correlation of a recipe over its seeds."""

    recipe: str
    num_seeds: int
    mean: float
    deviation: float


@dataclass(frozen=True)
class ScoresSection:
    """Content of the section; ``notes`` are sentences below the table."""

    labels: Sequence[str]
    rows: Sequence[ScoreRow]
    seeds: Sequence[SeedRow]
    dots: str | None
    same_heading: str
    notes: Sequence[str]


def build_scores_section(material: Material, same: SameClips | None) -> ScoresSection:
    """Build the section; it has no rows if nothing has been scored.

    Args:
        material: the data of the report.
        same: the ranked runs on their common clips, or None.
    """
    scored = [run for run in material.runs if run.metrics]
    recipes = _by_recipe(material, scored)
    return ScoresSection(
        labels=material.label_names,
        rows=_rows(material, scored, same),
        seeds=[
            SeedRow(
                each.recipe, len(each.scores), float(np.mean(each.scores)), float(np.std(each.scores, ddof=1))
            )
            for each in recipes
            if len(each.scores) > 1
        ],
        dots=run_dots("runs", recipes) if len(recipes) > 1 else None,
        same_heading=f"mean Pearson, same {len(same.clip_ids):,} clips"
        if same and _differ(same, scored)
        else "",
        notes=_notes(scored, same),
    )


def scores_json(material: Material) -> dict[str, Any]:
    """Return all metrics of all runs, the best run first; NaN and infinity become None."""
    return {
        "corpus": material.corpus_kind,
        "labels": list(material.label_names),
        "runs": [
            {
                "recipe": run.recipe,
                "seed": run.seed,
                **_jsonable(run.metrics),
                "paper_val_pearson": _jsonable(_paper(material, run)[0]),
            }
            for run in material.runs
        ],
    }


def _rows(material: Material, runs: Sequence[Run], same: SameClips | None) -> list[ScoreRow]:
    if not runs:
        return []
    labels = material.label_names
    by_label = [label_scores(run.metrics, labels) for run in runs]
    shared = [same.label_scores(run, labels) if same else [math.nan] * len(labels) for run in runs]
    values = np.array(shared).reshape(len(runs), len(labels))
    # fmax ignores NaN; NaN equals nothing, so an unranked run is never the best.
    tops = values == np.fmax.reduce(values, axis=0)
    means = [same.score(run) if same else math.nan for run in runs]
    papers = [note or format_score(reported, 4) for reported, note in (_paper(material, run) for run in runs)]
    return [ScoreRow(*row) for row in zip(runs, by_label, tops.tolist(), means, papers, strict=True)]


def _differ(same: SameClips, runs: Sequence[Run]) -> bool:
    """Return whether a run was scored on other clips than the common clips of the ranked runs."""
    return same.others > 0 or any(run.metrics.get("num_val") != len(same.clip_ids) for run in runs)


def _paper(material: Material, run: Run) -> tuple[float, str]:
    """Return the paper's score, NaN if it is not comparable with the run, and the reason to show instead."""
    reported = paper_score(run.recipe)
    if reported is None:
        return math.nan, ""
    if not run.description:
        return math.nan, OTHER_FEATURES
    recipe = Recipe.model_validate(run.description["recipe"])
    basis = Basis(recipe, run.description["extractors"], material.corpus_kind, material.clips)
    reasons = differences_from_paper(basis)
    return (math.nan, reasons[0]) if reasons else (reported, "")


def _by_recipe(material: Material, runs: Sequence[Run]) -> list[RecipeScores]:
    """Group the scores of runs by recipe, in the order of each recipe's best run."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.recipe, []).append(run)
    return [
        RecipeScores(recipe, [run.val_pearson for run in group], _paper(material, group[0])[0])
        for recipe, group in groups.items()
    ]


def _notes(runs: Sequence[Run], same: SameClips | None) -> list[str]:
    notes = [
        "Each run is scored on the validation clips that it can read.",
        "The best score of each label on the common clips of the ranked runs is underlined.",
        "If the best epochs were selected on these clips, the scores are a little optimistic.",
    ]
    if same is not None and same.others:
        notes.append(f"Not ranked, because scored on other clips or without predictions: {same.others} runs.")
    if any(math.isnan(run.val_pearson) for run in runs):
        notes.append("A mean over seeds is unknown if one of the seeds has no score.")
    notes.append("A paper's score is only shown for runs with the same features, split, clips and settings.")
    return notes


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _jsonable(each) for key, each in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
