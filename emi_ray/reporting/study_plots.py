"""Plots of a hyper-parameter search, as inline SVG."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from emi_ray.reporting.importances import Range
from emi_ray.reporting.plot_style import PAGE_WIDTH_IN, PALETTE, one_panel, panel_grid, report_style
from emi_ray.reporting.svg import inline_svg
from emi_ray.results.studies import StudyTrial

_DOT: dict[str, Any] = {"ls": "", "marker": "o", "ms": 5, "mew": 0, "alpha": 0.75, "color": PALETTE["text"]}
_STOPPED: dict[str, Any] = {"ls": "", "marker": "o", "ms": 4, "mfc": "none", "mec": PALETTE["muted"]}
_START: dict[str, Any] = {"ls": "", "marker": "D", "ms": 7, "mfc": "none", "mec": PALETTE["val"], "mew": 1.6}
_BEST: dict[str, Any] = {"ls": "", "marker": "*", "ms": 13, "mew": 0, "color": PALETTE["audio"]}
_MAX_TICKS = 6


def search_history(name: str, trials: Sequence[StudyTrial], metric: str, maximise: bool) -> str:
    """Plot the score of each complete and each early-stopped trial, and the best score so far."""
    complete = [trial for trial in trials if trial.state == "complete"]
    stopped = [trial for trial in trials if trial.state == "pruned"]
    scores = np.array([trial.score for trial in complete], dtype=float)
    # Trials are in the order of their numbers, that is of their start.
    best = np.maximum.accumulate(scores) if maximise else np.minimum.accumulate(scores)
    with report_style():
        figure, axes = one_panel(PAGE_WIDTH_IN, 2.6)
        axes.plot([t.number for t in stopped], [t.score for t in stopped], **_STOPPED, label="stopped early")
        axes.plot([t.number for t in complete], scores, **_DOT, label="complete")
        axes.step([t.number for t in complete], best, where="post", color=PALETTE["ink"], label="best so far")
        start = [t for t in complete if t.is_start]
        axes.plot([t.number for t in start], [t.score for t in start], **_START, label="original settings")
        if start:
            axes.axhline(start[0].score, color=PALETTE["val"], lw=0.8, ls=":")
        axes.set_xlabel("trial")
        axes.set_ylabel(f"{metric}, tuning split")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(ncols=4, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
        return inline_svg(figure, name, "Dots: the score of each trial in the order of the search")


def importance_bars(name: str, importances: Mapping[str, float]) -> str:
    """Plot the share of the score's variance that each parameter explains, the largest on top."""
    ordered = sorted(importances.items(), key=lambda item: item[1])
    with report_style():
        figure, axes = one_panel(PAGE_WIDTH_IN * 0.7, 0.7 + 0.28 * len(ordered))
        axes.barh(range(len(ordered)), [share for _, share in ordered], 0.62, color=PALETTE["text"])
        axes.set_yticks(range(len(ordered)), [parameter for parameter, _ in ordered], color=PALETTE["ink"])
        axes.set_xlim(0, 1)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("share of the variance of the score")
        return inline_svg(figure, name, "Bars: how much each parameter matters to the score")


def slices(
    name: str, trials: Sequence[StudyTrial], ranges: Mapping[str, Range], metric: str, best: int | None
) -> str:
    """Plot the score of the complete trials against each parameter, one panel per parameter."""
    complete = [trial for trial in trials if trial.state == "complete"]
    with report_style():
        figure, panels = panel_grid(len(ranges), num_columns=4, panel_height_in=1.5, share_y=True)
        for index, (axes, (parameter, within)) in enumerate(zip(panels, ranges.items(), strict=True)):
            _slice(
                axes, [trial for trial in complete if parameter in trial.parameters], parameter, within, best
            )
            axes.set_title(parameter, fontsize=8)
            if index % 4 == 0:
                axes.set_ylabel(metric)
        return inline_svg(figure, name, "Dots: the score of each complete trial against each parameter")


def front_plot(
    name: str, trials: Sequence[StudyTrial], front: Sequence[int], metric: str, cost: str, maximise: bool
) -> str:
    """Plot score against cost; a line connects the trials of the Pareto front."""
    complete = [trial for trial in trials if trial.state == "complete"]
    best = sorted((trial for trial in complete if trial.number in front), key=lambda trial: trial.cost)
    with report_style():
        figure, axes = one_panel(PAGE_WIDTH_IN * 0.6, 2.6)
        axes.plot([t.cost for t in complete], [t.score for t in complete], **_DOT)
        axes.step(
            [t.cost for t in best],
            [t.score for t in best],
            where="post",
            color=PALETTE["val"],
            label="Pareto front",
        )
        axes.set_xlabel(cost)
        axes.set_ylabel(f"{metric}, tuning split")
        axes.legend(loc="lower right" if maximise else "upper right")
        return inline_svg(figure, name, f"Scatter plot: score against {cost}, with the Pareto front")


def _slice(axes: Axes, trials: Sequence[StudyTrial], parameter: str, within: Range, best: int | None) -> None:
    def place(trial: StudyTrial) -> float:
        value = trial.parameters[parameter]
        # Choices need not be numbers, so they are placed by their order.
        return float(within.choices.index(value)) if within.choices else float(value)

    def draw(chosen: Sequence[StudyTrial], style: Mapping[str, Any]) -> None:
        axes.plot([place(trial) for trial in chosen], [trial.score for trial in chosen], **style)

    draw(trials, _DOT)
    draw([trial for trial in trials if trial.is_start], _START)
    draw([trial for trial in trials if trial.number == best], _BEST)
    if within.choices:
        names = ["none" if choice is None else str(choice) for choice in within.choices]
        axes.set_xticks(range(len(names)), names, rotation=30 if len(names) > _MAX_TICKS else 0)
        axes.set_xlim(-0.5, len(names) - 0.5)
    elif within.log:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.locator_params(axis="x", nbins=5)
