"""Style of the report's figures: colours, fonts, and the layout of panels.

The colours are the palette of Okabe and Ito, which colour-blind readers can distinguish. A modality has the same
colour in all figures.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

PAGE_WIDTH_IN = 11.25

PALETTE = {
    "ink": "#1c2126",
    "muted": "#606a74",
    "rule": "#d9dee4",
    "text": "#0072b2",
    "audio": "#e69f00",
    "vision": "#009e73",
    "motion": "#cc79a7",
    "fusion": "#30363d",
    "train": "#56b4e9",
    "val": "#d55e00",
    "test": "#f0e442",
}
"""Colours of the light page by name of their CSS variable; figures are drawn in these colours."""

DARK_PALETTE = PALETTE | {
    "ink": "#e4e8ec",
    "muted": "#9aa5b1",
    "rule": "#3a424b",
    "text": "#3d9fdb",
    "audio": "#f0b429",
    "vision": "#22b88c",
    "fusion": "#d5dae0",
}

_RC: dict[Any, Any] = {
    # Text stays text, in the font of the page, and can be searched.
    "svg.fonttype": "none",
    # Fixed ids, so that the same figure gives the same file.
    "svg.hashsalt": "emi_ray",
    # Labels of a corpus may contain dollar signs.
    "text.parse_math": False,
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": PALETTE["muted"],
    "axes.edgecolor": PALETTE["rule"],
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": PALETTE["rule"],
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "text.color": PALETTE["ink"],
    "xtick.color": PALETTE["muted"],
    "ytick.color": PALETTE["muted"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "lines.linewidth": 1.4,
}

_LEFT_IN, _RIGHT_IN, _TOP_IN, _BOTTOM_IN = 0.75, 0.12, 0.3, 0.5
_GAP_X_IN, _GAP_Y_IN = 0.5, 0.5


@contextmanager
def report_style() -> Iterator[None]:
    """Draw figures in the report's style while the ``with`` block runs."""
    with matplotlib.rc_context(_RC):
        yield


def colour_of(stage: str) -> str:
    """Return the colour of a modality; any other stage has the colour of fusion."""
    return PALETTE.get(stage, PALETTE["fusion"])


def one_panel(width_in: float, height_in: float) -> tuple[Figure, Axes]:
    """Create a figure with one panel, which makes room for tick labels of any length."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    return figure, figure.subplots()


def panel_grid(
    num_panels: int, num_columns: int, panel_height_in: float, share_y: bool = False
) -> tuple[Figure, list[Axes]]:
    """Create a figure with equal panels, in rows.

    Margins are fixed, because a layout engine would draw everything twice. A grid of one or two columns is narrower
    than the page.
    """
    num_columns = min(num_columns, num_panels)
    num_rows = -(-num_panels // num_columns)
    width = PAGE_WIDTH_IN * min(1, 0.4 * num_columns)
    height = _TOP_IN + num_rows * (panel_height_in + _GAP_Y_IN) - _GAP_Y_IN + _BOTTOM_IN
    panel_width = (width - _LEFT_IN - _RIGHT_IN - (num_columns - 1) * _GAP_X_IN) / num_columns
    figure = Figure(figsize=(width, height))
    panels: list[Axes] = []
    for index in range(num_panels):
        row, column = divmod(index, num_columns)
        left = _LEFT_IN + column * (panel_width + _GAP_X_IN)
        # matplotlib measures from the lower left corner, in shares of the figure.
        bottom = height - _TOP_IN - panel_height_in - row * (panel_height_in + _GAP_Y_IN)
        box = (left / width, bottom / height, panel_width / width, panel_height_in / height)
        panels.append(figure.add_axes(box, sharey=panels[0] if panels and share_y else None))
    return figure, panels
