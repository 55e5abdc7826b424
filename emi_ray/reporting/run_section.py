"""The section with plots of trained systems: scores by modality, training curves, predictions."""

from collections.abc import Sequence
from dataclasses import dataclass

from emi_ray.metrics import pearson
from emi_ray.reporting.collect import Material
from emi_ray.reporting.plot_style import colour_of
from emi_ray.reporting.robustness_section import calibration_table, robustness_tables
from emi_ray.reporting.score_plots import MAX_POINTS, Bars, prediction_scatter, score_bars, training_curves
from emi_ray.reporting.text_tables import TextTable
from emi_ray.resampling import PearsonIntervals, pearson_intervals
from emi_ray.results.predictions import ScoredPredictions, read_scored_predictions
from emi_ray.results.runs import Run, label_scores, number
from emi_ray.schema import labels_of

_MAX_DRAWN = 8


@dataclass(frozen=True)
class RunSection:
    """Plots and tables of one run. A plot whose files are missing is None; ``command`` creates the missing files."""

    run: Run
    intervals: PearsonIntervals | None
    bars: str | None
    curves: str | None
    scatter: str | None
    scatter_caption: str
    command: str
    tables: Sequence[TextTable]
    evaluate: str

    @property
    def intervals_caption(self) -> str:
        """Explanation of the intervals in the bar plot; empty without intervals."""
        if self.intervals is None:
            return ""
        drawn = f"{self.intervals.num_groups:,} groups (people or single clips)"
        return f"Thin lines: 95 % intervals from a bootstrap over the {drawn} of the validation split."


def build_run_sections(material: Material) -> list[RunSection]:
    """Build the section for the best seed of each of the best recipes, the best first."""
    best_of_recipe: dict[str, Run] = {}
    for run in material.runs:
        best_of_recipe.setdefault(run.recipe, run)
    drawn = list(best_of_recipe.values())[:_MAX_DRAWN]
    return [_run_section(material, run, f"run{index}") for index, run in enumerate(drawn)]


def _run_section(material: Material, run: Run, prefix: str) -> RunSection:
    predictions = read_scored_predictions(material.workspace, run.folder)
    intervals = _intervals(material, predictions) if predictions else None
    labels = predictions.labels if predictions else material.label_names
    return RunSection(
        run=run,
        intervals=intervals,
        bars=score_bars(f"{prefix}-bars", labels, _bars(run, labels), intervals) if run.metrics else None,
        curves=training_curves(f"{prefix}-curves", run.history) if run.history else None,
        scatter=_scatter(predictions, prefix) if predictions else None,
        scatter_caption=_scatter_caption(predictions) if predictions else "",
        command=f"emi-ray train {material.place} {run.recipe} --seed {run.seed}",
        tables=_tables(material, run, predictions),
        # The key "subsets" is written by emi-ray evaluate; ensembles and old runs may lack a description.
        evaluate=""
        if "subsets" in run.robustness or not run.description
        else f"emi-ray evaluate {material.place} {run.run_name}",
    )


def _tables(material: Material, run: Run, predictions: ScoredPredictions | None) -> list[TextTable]:
    """Build the tables on calibration and, after ``emi-ray evaluate``, on robustness."""
    labels = labels_of(material.clips.schema) if material.clips is not None else ()
    calibration = [calibration_table(predictions, labels)] if predictions else []
    return calibration + robustness_tables(run.robustness)


def _intervals(material: Material, predictions: ScoredPredictions) -> PearsonIntervals:
    codes = material.codes_of(predictions.clip_ids)
    return pearson_intervals(predictions.predicted, predictions.true, codes)


def _bars(run: Run, labels: Sequence[str]) -> list[Bars]:
    """Return the bars of each stage-1 encoder, then those of the system itself."""
    stages = {} if run.modality else run.stages
    named = [*stages.items(), (run.modality or "fusion", run.metrics)]
    return [
        Bars(name, colour_of(name), label_scores(scores, labels), number(scores.get("val_pearson")))
        for name, scores in named
    ]


def _scatter(predictions: ScoredPredictions, prefix: str) -> str:
    r = pearson(predictions.predicted, predictions.true)
    return prediction_scatter(f"{prefix}-scatter", predictions, r.tolist())


def _scatter_caption(predictions: ScoredPredictions) -> str:
    num_clips = len(predictions.true)
    drawn = (
        f"{MAX_POINTS:,} of {num_clips:,} clips are drawn"
        if num_clips > MAX_POINTS
        else f"{num_clips:,} clips"
    )
    return f"{drawn}. Orange: the mean prediction in each tenth of the true range. Dotted: predicted = true."
