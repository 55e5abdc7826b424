"""The table of scores, and ``scores.json``."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from emi_ray.recipe import Recipe
from emi_ray.reporting.collect import Material
from emi_ray.reporting.numbers import score
from emi_ray.reporting.paper import OTHER_FEATURES, Basis, differences_from_paper, paper_score
from emi_ray.reporting.runs import Run, label_scores, number
from emi_ray.reporting.same_clips import SameClips
from emi_ray.reporting.score_plots import RecipeScores, run_dots


@dataclass(frozen=True)
class ScoreRow:
    """One run in the table.

    ``same`` is its mean r on the clips that the ranked runs share, and ``tops`` says for which labels no ranked run
    is better on these. ``paper`` is the paper's figure, or why it is not shown.
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
    same_heading: str
    notes: Sequence[str]


def build_scores(material: Material, same: SameClips | None) -> Scores:
    """The section of scores; without rows where nothing has been scored.

    Args:
        same: the runs that can be ranked, on the clips that they share.
    """
    scored = [run for run in material.runs if run.metrics]
    recipes = _by_recipe(material, scored)
    return Scores(
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
    """All metrics of all runs, the best first; what is not a number is null."""
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
    own = [label_scores(run.metrics, labels) for run in runs]
    shared = [same.label_scores(run, labels) if same else [math.nan] * len(labels) for run in runs]
    values = np.array(shared).reshape(len(runs), len(labels))
    tops = values == np.fmax.reduce(values, axis=0)
    means = [same.score(run) if same else math.nan for run in runs]
    papers = [said or score(reported, 4) for reported, said in (_paper(material, run) for run in runs)]
    return [ScoreRow(*row) for row in zip(runs, own, tops.tolist(), means, papers, strict=True)]


def _differ(same: SameClips, runs: Sequence[Run]) -> bool:
    """Whether some run was scored on other clips than the ranked ones share."""
    return same.others > 0 or any(run.metrics.get("num_val") != len(same.clip_ids) for run in runs)


def _paper(material: Material, run: Run) -> tuple[float, str]:
    """The paper's figure, NaN where it may not stand beside the run; and what the cell says instead."""
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
    """In the order of their best run."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.recipe, []).append(run)
    return [
        RecipeScores(recipe, [run.val_pearson for run in group], _paper(material, group[0])[0])
        for recipe, group in groups.items()
    ]


def _notes(runs: Sequence[Run], same: SameClips | None) -> list[str]:
    notes = [
        "Each run over the validation clips that it can read.",
        "The best of each label on the clips that the ranked runs share is underlined.",
        "Epochs were chosen by these same scores, which makes them a little optimistic.",
    ]
    if same is not None and same.others:
        notes.append(f"Validated on other clips, or without predictions, and not ranked: {same.others}.")
    if any(math.isnan(run.val_pearson) for run in runs):
        notes.append("A mean over seeds of which one has no score is not known.")
    notes.append(
        "A paper's figure stands only beside a run on the features, the split and the clips that it is of."
    )
    return notes


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _jsonable(each) for key, each in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
