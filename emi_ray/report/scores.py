"""The score table, the sentence above it, and ``scores.json``."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from emi_ray.report.collect import Material
from emi_ray.report.intervals import Interval
from emi_ray.report.plots import RecipeScores, run_dots
from emi_ray.report.runs import Run, label_scores, number

_PAPER_CORPUS = "vidmimic2"


@dataclass(frozen=True)
class ScoreRow:
    """One run in the table; ``tops`` says for which labels no run is better."""

    run: Run
    labels: Sequence[float]
    tops: Sequence[bool]

    @property
    def val_pearson(self) -> float:
        return self.run.val_pearson

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
    """A recipe over its seeds: sample mean and standard deviation of validation Pearson."""

    recipe: str
    scores: Sequence[float]

    @property
    def mean(self) -> float:
        return float(np.mean(self.scores))

    @property
    def deviation(self) -> float:
        return float(np.std(self.scores, ddof=1))


@dataclass(frozen=True)
class Scores:
    """What the section of scores shows."""

    labels: Sequence[str]
    rows: Sequence[ScoreRow]
    seeds: Sequence[SeedRow]
    dots: str | None
    paper_heading: str
    paper_note: str | None


@dataclass(frozen=True)
class SingleModality:
    """The best score that one modality reached alone, and the run in which it did."""

    modality: str
    val_pearson: float
    run: Run


def build_scores(material: Material) -> Scores:
    """The section of scores; without rows where nothing has been scored."""
    scored = [run for run in material.runs if run.metrics]
    values = [label_scores(run.metrics, material.label_names) for run in scored]
    best = np.fmax.reduce(np.array(values), axis=0) if values else np.array([])
    rows = [ScoreRow(run, row, [value == top for value, top in zip(row, best, strict=True)]) for run, row in zip(scored, values, strict=True)]
    same_data = material.corpus_kind == _PAPER_CORPUS
    any_paper = any(not math.isnan(run.paper_val_pearson) for run in scored)
    by_recipe = _by_recipe(scored)
    return Scores(
        labels=material.label_names,
        rows=rows,
        seeds=[SeedRow(row.recipe, row.scores) for row in by_recipe if len(row.scores) > 1],
        dots=run_dots("runs", by_recipe, "the paper" if same_data else "the paper, on other data") if len(by_recipe) > 1 else None,
        paper_heading="paper" if same_data else "paper, on other data",
        paper_note=None
        if same_data or not any_paper
        else "The paper's numbers are for Hume-Vidmimic2, which these clips are not: they show the order to expect, no more.",
    )


def headline(material: Material, interval: Interval | None) -> str:
    """The result in one sentence: the best run against the best single modality.

    Args:
        interval: of the best run's mean Pearson.
    """
    scored = [run for run in material.runs if not math.isnan(run.val_pearson)]
    if not scored:
        return _progress(material)
    best = scored[0]
    within = f" (95 % interval {interval.low:.3f} to {interval.high:.3f})" if interval and not math.isnan(interval.low) else ""
    reached = (
        f"{best.recipe}, seed {best.seed}, is the best of {_plural(len(scored), 'run')}: mean validation Pearson "
        f"{best.val_pearson:.4f}{within} over {_plural(best.metrics.get('num_val', 0), 'clip')}"
    )
    single = best_single_modality(scored)
    if best.modality is not None or single is None:
        return f"{reached}, from {best.modality} alone." if best.modality else f"{reached}."
    difference = best.val_pearson - single.val_pearson
    direction = "above" if difference >= 0 else "below"
    where = "" if single.run is best else f" in {single.run.recipe}, seed {single.run.seed}"
    return (
        f"{reached}, {abs(difference):.3f} {direction} the best single modality "
        f"({single.modality}{where}: {single.val_pearson:.4f})."
    )


def best_single_modality(runs: Sequence[Run]) -> SingleModality | None:
    """Over the unimodal runs and the unimodal stages of the others; of equals, that of the better run."""
    candidates = [
        SingleModality(modality, number(scores.get("val_pearson")), run)
        for run in runs
        for modality, scores in ([(run.modality, run.metrics)] if run.modality else run.stages.items())
    ]
    known = [candidate for candidate in candidates if not math.isnan(candidate.val_pearson)]
    return max(known, key=lambda candidate: candidate.val_pearson, default=None)


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


def _progress(material: Material) -> str:
    if material.corpus is None:
        return "Nothing here yet: the workspace has no corpus."
    clips = _plural(material.corpus.clips.num_rows, "clip")
    if not any(len(each.num_steps) for each in material.feature_sets):
        return f"A corpus of {clips}; no features have been extracted yet."
    modalities = dict.fromkeys(each.modality for each in material.feature_sets if len(each.num_steps))
    return f"A corpus of {clips} with features of {', '.join(modalities)}; no system has been trained yet."


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _jsonable(each) for key, each in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
