"""Plots of a corpus and its features, as inline SVG."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter, PercentFormatter

from emi_ray.reporting.collect import FeatureSet
from emi_ray.reporting.plot_style import (
    PAGE_WIDTH_IN,
    PALETTE,
    colour_of,
    one_panel,
    panel_grid,
    report_style,
)
from emi_ray.reporting.svg import inline_svg
from emi_ray.schema import Label

_NUM_BINS = 10


def label_histograms(
    name: str, labels: Sequence[Label], values: Mapping[str, Mapping[str, np.ndarray]]
) -> str:
    """Plot the share of clips by intensity: one panel per label, one colour per split.

    The lowest value has a bar of its own, because most clips have it.

    Args:
        name: prefix of the ids in the SVG.
        labels: the labels.
        values: the known values (N,), by split and label.
    """
    with report_style():
        figure, panels = panel_grid(len(labels), num_columns=3, panel_height_in=1.35, share_y=True)
        for axes, label in zip(panels, labels, strict=True):
            _label_histogram(axes, label, {split: columns[label.name] for split, columns in values.items()})
        most = max(len(known) for columns in values.values() for known in columns.values())
        # The axis is logarithmic: it begins below the share of a single clip.
        panels[0].set_ylim(0.5 / max(most, 1), 1.5)
        panels[0].legend(ncols=len(values), loc="upper right", borderaxespad=0)
        return inline_svg(figure, name, "Histograms: share of clips by intensity, one panel per label")


def _label_histogram(axes: Axes, label: Label, values: Mapping[str, np.ndarray]) -> None:
    # Together the bars of one intensity fill 84 % of their place, so that a gap separates intensities.
    width = 0.84 / len(values)
    for index, (split, known) in enumerate(values.items()):
        shares = _shares(known, label)
        x = np.arange(len(shares)) + (index - (len(values) - 1) / 2) * width
        axes.bar(x, shares, width, color=PALETTE[split], label=split)
    axes.set_title(label.name)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    axes.yaxis.set_minor_formatter(NullFormatter())
    middle = (label.low + label.high) / 2
    ticks = [0, 0.5 + _NUM_BINS / 2, 0.5 + _NUM_BINS]
    axes.set_xticks(ticks, [f"={label.low:g}", f"{middle:g}", f"{label.high:g}"])
    axes.grid(axis="x", visible=False)


def _shares(values: np.ndarray, label: Label) -> np.ndarray:
    """Return the share of the lowest value, then of each tenth of the range above it; NaN instead of 0."""
    above = np.minimum(values[values > label.low], label.high)
    tenths, _ = np.histogram(above, np.linspace(label.low, label.high, _NUM_BINS + 1))
    counts = np.array([len(values) - len(above), *tenths], dtype=float)
    # A logarithmic axis has no 0; NaN draws no bar.
    return np.where(counts > 0, counts / max(len(values), 1), np.nan)


def step_histograms(name: str, sets: Sequence[FeatureSet]) -> str:
    """Plot the distribution of the number of steps per clip with its median, one panel per extractor.

    The axis is logarithmic if the longest clip is more than ten times as long as the shortest.
    """
    with report_style():
        figure, panels = panel_grid(len(sets), num_columns=4, panel_height_in=1.3)
        for axes, each in zip(panels, sets, strict=True):
            shortest, longest = int(each.num_steps.min()), int(each.num_steps.max())
            median = float(np.median(each.num_steps))
            # Rounded, because steps are whole numbers; unique, because short ranges have fewer of them.
            edges = np.unique(np.round(np.geomspace(shortest, longest + 1, 24)))
            axes.hist(each.num_steps, edges.tolist(), color=colour_of(each.modality))
            axes.axvline(median, color=PALETTE["ink"], lw=1, ls="--")
            if longest > 10 * shortest:
                axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_title(f"{each.modality}: {each.extractor}")
            axes.set_xlabel(f"steps; median {median:g}, longest {longest:,}")
        panels[0].set_ylabel("clips")
        return inline_svg(figure, name, "Histograms: number of steps per clip, one panel per extractor")


def coverage_bars(name: str, sets: Sequence[FeatureSet]) -> str:
    """Plot how many clips have features, lack the input, failed, or were not tried; one bar per extractor."""
    parts = [
        ("clip lacks the input", [each.num_missing for each in sets], PALETTE["muted"]),
        ("failed", [each.num_failed for each in sets], PALETTE["val"]),
        ("not tried", [each.num_untried for each in sets], PALETTE["rule"]),
    ]
    with report_style():
        figure, axes = one_panel(PAGE_WIDTH_IN, 0.75 + 0.32 * len(sets))
        rows = np.arange(len(sets))
        start = np.array([len(each.num_steps) for each in sets])
        colours = [colour_of(each.modality) for each in sets]
        axes.barh(rows, start, 0.62, color=colours, label="with features (colour of the modality)")
        for label, counts, colour in parts:
            axes.barh(rows, counts, 0.62, start, color=colour, label=label)
            start = start + counts
        axes.set_yticks(rows, [f"{each.modality}: {each.extractor}" for each in sets], color=PALETTE["ink"])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlim(0, max(start.max(), 1))
        axes.set_xlabel("clips")
        axes.legend(ncols=4, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
        return inline_svg(figure, name, "Bars: how many clips have features, by extractor")
