"""Plots of scores, training curves and predictions, as inline SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from emi_ray.reporting.plot_style import (
    PAGE_WIDTH_IN,
    PALETTE,
    colour_of,
    one_panel,
    panel_grid,
    report_style,
)
from emi_ray.reporting.svg import inline_svg
from emi_ray.resampling import PearsonIntervals
from emi_ray.results.predictions import ScoredPredictions
from emi_ray.results.runs import Epoch

MAX_POINTS = 2000
"""Maximum number of points in a scatter plot."""

_NUM_BINS = 10
_ABOVE: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "va": "bottom", "fontsize": 8}


@dataclass(frozen=True)
class Bars:
    """One series of a grouped bar plot: a value for each label, and their mean; NaN leaves a gap."""

    name: str
    colour: str
    values: Sequence[float]
    mean: float


@dataclass(frozen=True)
class RecipeScores:
    """Validation Pearson of each seed of a recipe, and the paper's score (NaN without one)."""

    recipe: str
    scores: Sequence[float]
    paper: float


def score_bars(
    name: str, labels: Sequence[str], series: Sequence[Bars], intervals: PearsonIntervals | None
) -> str:
    """Plot Pearson's r of each label and, in wider bars, the mean; intervals are drawn on the last series."""
    num_labels = len(labels)
    positions = np.arange(num_labels + 1, dtype=float)
    positions[-1] += 0.6
    slots = np.array([0.82] * num_labels + [1.5]) / max(len(series), 2)
    with report_style():
        figure, axes = one_panel(max(PAGE_WIDTH_IN, 1.0 * num_labels), 3.3)
        for index, bars in enumerate(series):
            x = positions + (index - (len(series) - 1) / 2) * slots
            axes.bar(x, [*bars.values, bars.mean], slots * 0.88, color=bars.colour, label=bars.name)
            top = max(bars.mean, 0)
            if bars is series[-1] and intervals is not None:
                ends = [*intervals.labels, intervals.mean]
                # A dark interval on the dark bar of the fusion would not be seen.
                ink = PALETTE["val" if bars.colour == PALETTE["fusion"] else "ink"]
                axes.vlines(x, [end.low for end in ends], [end.high for end in ends], ink, lw=1.5)
                top = max(top, intervals.mean.high)
            if not math.isnan(bars.mean):
                axes.annotate(f"{bars.mean:.3f}", (x[-1], top), (0, 2), **_ABOVE)
        axes.axhline(0, color=PALETTE["muted"], lw=0.8)
        axes.axvline(positions[-1] - 0.95, color=PALETTE["rule"], lw=0.8)
        axes.set_xticks(positions, [*labels, "mean"], color=PALETTE["ink"], fontsize=9)
        axes.set_xlim(-0.55, positions[-1] + 0.85)
        axes.set_ylabel("Pearson r, validation")
        axes.grid(axis="x", visible=False)
        axes.legend(ncols=len(series), loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
        return inline_svg(figure, name, "Bars: validation Pearson of each label and their mean, by stage")


def run_dots(name: str, recipes: Sequence[RecipeScores]) -> str:
    """Plot one line per recipe: a dot for each seed, a bar at their mean, a diamond for the paper's score."""
    with report_style():
        figure, axes = one_panel(PAGE_WIDTH_IN * 0.7, 0.7 + 0.28 * len(recipes))
        for row, recipe in enumerate(recipes):
            scores = np.array(recipe.scores, dtype=float)
            axes.plot(scores, np.full(len(scores), row), "o", color=PALETTE["text"], ms=5, alpha=0.75, mew=0)
            if len(scores) > 1:
                axes.vlines(scores.mean(), row - 0.28, row + 0.28, PALETTE["ink"], lw=1.6)
        paper = [(recipe.paper, row) for row, recipe in enumerate(recipes) if not math.isnan(recipe.paper)]
        if paper:
            x, y = zip(*paper, strict=True)
            axes.plot(x, y, "D", mfc="none", mec=PALETTE["val"], ms=6, label="the paper")
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
        axes.set_yticks(range(len(recipes)), [recipe.recipe for recipe in recipes], color=PALETTE["ink"])
        axes.set_ylim(len(recipes) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("validation Pearson; a dot for each seed, a bar for their mean")
        return inline_svg(figure, name, "Dot plot: validation Pearson of each recipe and seed")


def training_curves(name: str, history: Sequence[Epoch]) -> str:
    """Plot validation Pearson and losses by epoch, one column per stage; the epoch with the best score is marked."""
    stages: dict[str, list[Epoch]] = {}
    for row in history:
        stages.setdefault(row.stage, []).append(row)
    with report_style():
        figure, panels = panel_grid(2 * len(stages), len(stages), panel_height_in=1.3)
        uppers, lowers = panels[: len(stages)], panels[len(stages) :]
        for (stage, rows), upper, lower in zip(stages.items(), uppers, lowers, strict=True):
            _pearson_curve(upper, stage, rows)
            _loss_curves(lower, stage, rows)
            for axes, first in ((upper, uppers[0]), (lower, lowers[0])):
                axes.sharey(first)
                axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        uppers[0].set_ylabel("val Pearson")
        lowers[0].set_ylabel("loss")
        lowers[0].legend(fontsize=8)
        description = "Line plots: validation Pearson and losses by epoch, one column per stage"
        return inline_svg(figure, name, description)


def _pearson_curve(axes: Axes, stage: str, rows: Sequence[Epoch]) -> None:
    scores = np.array([row.val_pearson for row in rows])
    axes.plot([row.epoch for row in rows], scores, color=colour_of(stage))
    axes.set_title(stage, color=PALETTE["ink"])
    if np.isnan(scores).all():
        return
    best = rows[int(np.nanargmax(scores))]
    axes.axvline(best.epoch, color=PALETTE["rule"], lw=1)
    axes.plot([best.epoch], [best.val_pearson], "o", color=colour_of(stage), ms=5)
    note = f"{best.val_pearson:.3f}, epoch {best.epoch}"
    axes.text(0.97, 0.05, note, transform=axes.transAxes, ha="right", va="bottom", fontsize=8)


def _loss_curves(axes: Axes, stage: str, rows: Sequence[Epoch]) -> None:
    epochs = [row.epoch for row in rows]
    axes.plot(epochs, [row.train_loss for row in rows], "--", color=PALETTE["muted"], label="train")
    axes.plot(epochs, [row.val_loss for row in rows], color=colour_of(stage), label="validation")
    axes.set_xlabel("epoch")


def prediction_scatter(name: str, predictions: ScoredPredictions, r: Sequence[float], seed: int = 0) -> str:
    """Plot predicted against true values, one panel per label; large splits are sampled. ``r`` is over all clips."""
    num_labels, num_columns = len(predictions.labels), 3
    sample = np.random.default_rng(seed).permutation(len(predictions.true))[:MAX_POINTS]
    dots: dict[str, Any] = {
        "color": PALETTE["text"],
        "markersize": 3.5,
        "markeredgewidth": 0,
        "alpha": float(np.clip(150 / len(sample), 0.12, 0.6)),
        # Thousands of dots as vectors would make the page slow and large.
        "rasterized": True,
    }
    with report_style():
        figure, panels = panel_grid(num_labels, num_columns, panel_height_in=2.1)
        for index, axes in enumerate(panels):
            true, predicted = predictions.true[:, index], predictions.predicted[:, index]
            axes.plot(true[sample], predicted[sample], "o", **dots)
            _mean_prediction(axes, true, predicted)
            axes.axline((0, 0), slope=1, color=PALETTE["muted"], lw=0.8, ls=":")
            axes.locator_params(nbins=5)
            axes.set_title(predictions.labels[index])
            axes.set_title(f"r = {r[index]:.3f}", loc="right", fontweight="normal")
            if index % num_columns == 0:
                axes.set_ylabel("predicted")
            if index >= num_labels - num_columns:
                axes.set_xlabel("true")
        return inline_svg(
            figure, name, "Scatter plots: predicted against true intensity, one panel per label"
        )


def _mean_prediction(axes: Axes, true: np.ndarray, predicted: np.ndarray) -> None:
    """Plot the mean prediction in each tenth of the true range; bins with fewer than 3 clips are left out."""
    known = ~np.isnan(true)
    true, predicted = true[known], predicted[known]
    if not len(true) or true.min() == true.max():
        return
    edges = np.linspace(true.min(), true.max(), _NUM_BINS + 1)
    # The largest value lies on the last edge and belongs to the last bin.
    bins = np.clip(np.digitize(true, edges) - 1, 0, _NUM_BINS - 1)
    counts = np.bincount(bins, minlength=_NUM_BINS)
    enough = counts >= 3
    x, y = (np.bincount(bins, values, _NUM_BINS)[enough] / counts[enough] for values in (true, predicted))
    axes.plot(x, y, "o-", color=PALETTE["val"], ms=4, lw=1.2)
