"""Matplotlib figures as inline SVG that takes its type and its colours from the page.

Colours are those of Okabe and Ito, told apart by the colour-blind. A modality has the same one everywhere. In
the SVG each colour of ``PALETTE`` becomes a CSS variable, so that one drawing serves light, dark and paper.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure

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
"""Name of a CSS variable → its colour on a light page; figures are drawn in these."""

DARK_PALETTE = PALETTE | {
    "ink": "#e4e8ec",
    "muted": "#9aa5b1",
    "rule": "#3a424b",
    "text": "#3d9fdb",
    "audio": "#f0b429",
    "vision": "#22b88c",
    "fusion": "#d5dae0",
}

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
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

_PX_PER_PT = 96 / 72
_VARIABLES = {colour: name for name, colour in PALETTE.items()}
_HEX = re.compile(r"#[0-9a-f]{6}\b")
_REFERENCE = re.compile(r"(?<=#)[\w.]+")


@contextmanager
def report_style() -> Iterator[None]:
    """Within it, figures are drawn in the report's style."""
    with matplotlib.rc_context(_STYLE):
        yield


def inline_svg(figure: Figure, name: str, description: str) -> str:
    """An ``<svg>`` element for an HTML page: no links, no fonts, no clash of ids with other figures.

    Args:
        name: unique in the page; it prefixes every id.
        description: what the figure shows, for those who cannot see it.
    """
    buffer = StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in [child for child in parent if _local(child.tag) in ("metadata", "style")]:
            parent.remove(child)
    referenced = {
        reference
        for element in root.iter()
        for key, value in element.attrib.items()
        if "url(#" in value or _local(key) == "href"
        for reference in _REFERENCE.findall(value)
    }
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = _page_attributes(element.attrib, name, referenced)
    width, height = figure.get_size_inches() * 72
    root.attrib = {
        "viewBox": f"0 0 {width:g} {height:g}",
        "role": "img",
        "aria-label": description,
        "style": f"width: {width * _PX_PER_PT:.0f}px",
    }
    return ElementTree.tostring(root, encoding="unicode")


def _page_attributes(attributes: dict[str, str], name: str, referenced: set[str]) -> dict[str, str]:
    result = {}
    for key, value in attributes.items():
        key, value = _local(key), value.replace("\n", "").replace("url(#", f"url(#{name}-")
        if key == "id":
            if value not in referenced:
                continue
            value = f"{name}-{value}"
        elif key == "href":
            value = re.sub("^#", f"#{name}-", value)
        elif key == "style":
            value = _page_colours(re.sub(r"font-family:[^;]*;?", "", value))
        result[key] = value
    return result


def _page_colours(style: str) -> str:
    def variable(match: re.Match[str]) -> str:
        name = _VARIABLES.get(match.group())
        return f"var(--{name})" if name else match.group()

    return _HEX.sub(variable, style)


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]
