"""The drawings of the report: numbers in, inline SVG out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from emi_ray.report.collect import FeatureSet
from emi_ray.report.intervals import PearsonIntervals
from emi_ray.report.runs import Epoch, Predictions
from emi_ray.report.svg import PALETTE, inline_svg, report_style
from emi_ray.schema import Label

_PAGE_WIDTH_IN = 10.2
_MAX_POINTS = 2000
_NUM_BINS = 10


@dataclass(frozen=True)
class Bars:
    """One colour of a grouped bar plot: a value a label, then their mean; NaN leaves a gap."""

    name: str
    colour: str
    values: Sequence[float]
    mean: float


@dataclass(frozen=True)
class RecipeScores:
    """Validation Pearson of each seed of a recipe, and the paper's number (NaN where it has none)."""

    recipe: str
    scores: Sequence[float]
    paper: float


def colour_of(stage: str) -> str:
    """The colour of a modality, or of fusion for any other stage."""
    return PALETTE.get(stage, PALETTE["fusion"])


def score_bars(
    name: str, labels: Sequence[str], series: Sequence[Bars], intervals: PearsonIntervals | None
) -> str:
    """Pearson by label, grouped; the last of ``series`` carries the intervals."""
    groups = [*labels, "Mean"]
    positions = np.arange(len(groups), dtype=float)
    positions[-1] += 0.35
    width = 0.82 / len(series)
    with report_style():
        figure, axes = _figure(max(_PAGE_WIDTH_IN, 1.1 * len(groups)), 3.3)
        for index, bars in enumerate(series):
            x = positions + (index - (len(series) - 1) / 2) * width
            heights = np.array([*bars.values, bars.mean], dtype=float)
            axes.bar(x, heights, width * 0.88, color=bars.colour, label=bars.name)
            is_last = index == len(series) - 1
            if is_last and intervals is not None:
                ends = [*intervals.labels, intervals.mean]
                axes.vlines(x, [end.low for end in ends], [end.high for end in ends], PALETTE["muted"], lw=1.2)
            top = intervals.mean.high if is_last and intervals is not None else bars.mean
            if not math.isnan(bars.mean):
                axes.annotate(
                    f"{bars.mean:.3f}", (x[-1], max(top, bars.mean, 0)), (0, 2), textcoords="offset points",
                    ha="center", va="bottom", fontsize=8 if width > 0.3 else 6.5,
                )
        axes.axhline(0, color=PALETTE["muted"], lw=0.8)
        axes.axvline(positions[-1] - 0.68, color=PALETTE["rule"], lw=0.8)
        axes.set_xticks(positions, groups, color=PALETTE["ink"], fontsize=9)
        axes.set_xlim(positions[0] - 0.55, positions[-1] + 0.55)
        axes.set_ylabel("Pearson r, validation")
        axes.grid(axis="x", visible=False)
        axes.legend(ncols=len(series), loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
        return inline_svg(figure, name, "Bar plot: validation Pearson of each label and of their mean, by stage")


def run_dots(name: str, recipes: Sequence[RecipeScores], paper_label: str) -> str:
    """One line a recipe: a dot a seed, a bar at their mean, a diamond for the paper's number."""
    with report_style():
        figure, axes = _figure(_PAGE_WIDTH_IN * 0.7, 0.7 + 0.28 * len(recipes))
        for row, recipe in enumerate(recipes):
            scores = np.array(recipe.scores, dtype=float)
            axes.plot(scores, np.full(len(scores), row), "o", color=PALETTE["text"], ms=5, alpha=0.75, mew=0)
            axes.vlines(np.nanmean(scores), row - 0.28, row + 0.28, PALETTE["ink"], lw=1.6)
        paper = [(recipe.paper, row) for row, recipe in enumerate(recipes) if not math.isnan(recipe.paper)]
        if paper:
            x, y = zip(*paper, strict=True)
            axes.plot(x, y, "D", mfc="none", mec=PALETTE["val"], ms=6, label=paper_label)
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
        axes.set_yticks(range(len(recipes)), [recipe.recipe for recipe in recipes], color=PALETTE["ink"])
        axes.set_ylim(len(recipes) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("validation Pearson: a dot a seed, the bar their mean")
        return inline_svg(figure, name, "Dot plot: validation Pearson of each recipe and seed")


def training_curves(name: str, history: Sequence[Epoch]) -> str:
    """Per stage, validation Pearson over training and validation loss by epoch; the best epoch is marked."""
    stages = {stage: [row for row in history if row.stage == stage] for stage in dict.fromkeys(e.stage for e in history)}
    with report_style():
        width = min(_PAGE_WIDTH_IN, 2.6 * max(len(stages), 2))
        figure = Figure(figsize=(max(width, 1.7 * len(stages)), 3.6), layout="constrained")
        grid = figure.subplots(2, len(stages), squeeze=False, sharex="col", sharey="row")
        for (stage, rows), (upper, lower) in zip(stages.items(), grid.T, strict=True):
            _pearson_curve(upper, stage, rows)
            epochs = [row.epoch for row in rows]
            lower.plot(epochs, [row.train_loss for row in rows], "--", color=PALETTE["muted"], label="train")
            lower.plot(epochs, [row.val_loss for row in rows], color=colour_of(stage), label="validation")
            lower.set_xlabel("epoch")
            lower.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        grid[0, 0].set_ylabel("val Pearson")
        grid[1, 0].set_ylabel("loss")
        grid[1, 0].legend(fontsize=8)
        return inline_svg(figure, name, "Line plots: validation Pearson and losses by epoch, one column a stage")


def _pearson_curve(axes: Axes, stage: str, rows: Sequence[Epoch]) -> None:
    scores = np.array([row.val_pearson for row in rows])
    axes.plot([row.epoch for row in rows], scores, color=colour_of(stage))
    axes.set_title(stage, color=PALETTE["ink"])
    if np.isnan(scores).all():
        return
    best = rows[int(np.nanargmax(scores))]
    axes.axvline(best.epoch, color=PALETTE["rule"], lw=1)
    axes.plot([best.epoch], [best.val_pearson], "o", color=colour_of(stage), ms=5)
    axes.set_title(f"{best.val_pearson:.3f} at {best.epoch}", loc="right", fontweight="normal", fontsize=8)


def prediction_scatter(name: str, predictions: Predictions, r: Sequence[float], seed: int = 0) -> str:
    """Predicted against true, one panel a label, with r over all clips; large splits are drawn as a sample."""
    num_columns = min(3, len(predictions.labels))
    num_rows = math.ceil(len(predictions.labels) / num_columns)
    sample = np.random.default_rng(seed).permutation(len(predictions.true))[:_MAX_POINTS]
    with report_style():
        figure = Figure(figsize=(_PAGE_WIDTH_IN * num_columns / 3, 2.7 * num_rows), layout="constrained")
        panels = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
        for index, axes in enumerate(panels):
            if index >= len(predictions.labels):
                axes.set_axis_off()
                continue
            true, predicted = predictions.true[:, index], predictions.predicted[:, index]
            alpha = float(np.clip(150 / len(sample), 0.12, 0.6))
            axes.plot(
                true[sample], predicted[sample], "o", color=PALETTE["text"], ms=3.5, mew=0, alpha=alpha, rasterized=True
            )
            _mean_prediction(axes, true, predicted)
            axes.axline((0, 0), slope=1, color=PALETTE["muted"], lw=0.8, ls=":")
            axes.set_title(predictions.labels[index])
            axes.set_title(f"r = {r[index]:.3f}", loc="right", fontweight="normal")
            if index % num_columns == 0:
                axes.set_ylabel("predicted")
            if index >= len(predictions.labels) - num_columns:
                axes.set_xlabel("true")
        return inline_svg(figure, name, "Scatter plots: predicted against true intensity, one panel a label")


def _mean_prediction(axes: Axes, true: np.ndarray, predicted: np.ndarray) -> None:
    """Mean prediction in each tenth of the true range; thin bins (fewer than 3 clips) are left out."""
    known = ~np.isnan(true)
    true, predicted = true[known], predicted[known]
    if not len(true) or true.min() == true.max():
        return
    edges = np.linspace(true.min(), true.max(), _NUM_BINS + 1)
    bins = np.clip(np.digitize(true, edges) - 1, 0, _NUM_BINS - 1)
    counts = np.bincount(bins, minlength=_NUM_BINS)
    enough = counts >= 3
    x, y = (np.bincount(bins, values, _NUM_BINS)[enough] / counts[enough] for values in (true, predicted))
    axes.plot(x, y, "o-", color=PALETTE["val"], ms=4, lw=1.2)


def label_histograms(name: str, labels: Sequence[Label], values: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    """Share of clips by intensity, one panel a label, one colour a split; the lowest value has its own bar.

    Args:
        values: split → label → (N,) known values.
    """
    num_columns = min(3, len(labels))
    num_rows = math.ceil(len(labels) / num_columns)
    width = 0.84 / max(len(values), 1)
    with report_style():
        figure = Figure(figsize=(_PAGE_WIDTH_IN * num_columns / 3, 1.9 * num_rows + 0.4), layout="constrained")
        panels = figure.subplots(num_rows, num_columns, squeeze=False, sharey=True).ravel()
        for axes, label in zip(panels, labels, strict=False):
            for index, (split, columns) in enumerate(values.items()):
                shares = _shares(columns[label.name], label)
                x = np.arange(len(shares)) + (index - (len(values) - 1) / 2) * width
                axes.bar(x, shares, width, color=PALETTE[split], label=split)
            axes.set_title(label.name)
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
            axes.yaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
            ticks = [0, 0.5, 0.5 + _NUM_BINS / 2, 0.5 + _NUM_BINS]
            middle = (label.low + label.high) / 2
            axes.set_xticks(ticks, [f"={label.low:g}", "", f"{middle:g}", f"{label.high:g}"])
            axes.grid(axis="x", visible=False)
        for axes in panels[len(labels) :]:
            axes.set_axis_off()
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper left", ncols=len(values))
        return inline_svg(figure, name, "Histograms: share of clips by intensity, one panel a label")


def _shares(values: np.ndarray, label: Label) -> np.ndarray:
    """Share of the lowest value, then of each tenth of the range above it; NaN where it is 0."""
    above = values[values > label.low]
    edges = np.linspace(label.low, label.high, _NUM_BINS + 1)
    counts = np.array([len(values) - len(above), *np.histogram(np.minimum(above, label.high), edges)[0]], dtype=float)
    return np.where(counts > 0, counts / max(len(values), 1), np.nan)


def step_histograms(name: str, sets: Sequence[FeatureSet]) -> str:
    """Steps a clip, logarithmic, one panel an extractor, with the median."""
    num_columns = min(4, len(sets))
    num_rows = math.ceil(len(sets) / num_columns)
    with report_style():
        figure = Figure(figsize=(max(4.0, _PAGE_WIDTH_IN * num_columns / 4), 1.9 * num_rows), layout="constrained")
        panels = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
        for axes, each in zip(panels, sets, strict=False):
            longest = int(each.num_steps.max())
            edges = np.unique(np.round(np.geomspace(1, longest + 1, 24)))
            axes.hist(each.num_steps, edges, color=colour_of(each.modality))
            axes.set_xscale("log" if longest > 20 else "linear")
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
            axes.axvline(float(np.median(each.num_steps)), color=PALETTE["ink"], lw=1, ls="--")
            axes.set_title(f"{each.modality}: {each.extractor}")
            axes.set_xlabel(f"steps; median {np.median(each.num_steps):g}, longest {longest:,}")
        for axes in panels[len(sets) :]:
            axes.set_axis_off()
        panels[0].set_ylabel("clips")
        return inline_svg(figure, name, "Histograms: number of steps a clip, one panel an extractor")


def coverage_bars(name: str, sets: Sequence[FeatureSet]) -> str:
    """Clips with features, missing, failed and not tried, one bar an extractor."""
    with report_style():
        figure, axes = _figure(_PAGE_WIDTH_IN, 0.75 + 0.32 * len(sets))
        rows = np.arange(len(sets))
        start = np.zeros(len(sets))
        parts = [
            ("features", [len(each.num_steps) for each in sets], [colour_of(each.modality) for each in sets]),
            ("the clip lacks it", [each.num_missing for each in sets], PALETTE["muted"]),
            ("failed", [each.num_failed for each in sets], PALETTE["val"]),
            ("not tried", [each.num_untried for each in sets], PALETTE["rule"]),
        ]
        for label, counts, colour in parts:
            axes.barh(rows, counts, 0.62, start, color=colour, label=label)
            start += counts
        axes.set_yticks(rows, [f"{each.modality}: {each.extractor}" for each in sets], color=PALETTE["ink"])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlim(0, max(start.max(), 1))
        axes.set_xlabel("clips")
        axes.legend(ncols=4, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
        return inline_svg(figure, name, "Bars: how many clips have features, by extractor")


def _figure(width_in: float, height_in: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    return figure, figure.subplots()
