"""Conversion of matplotlib figures to inline SVG that uses the fonts and colours of the page.

Each colour of ``PALETTE`` becomes a CSS variable, so that the same figure is used for light, dark and printed pages.
"""

import re
from io import StringIO
from xml.etree import ElementTree

from matplotlib.figure import Figure

from emi_ray.reporting.plot_style import PALETTE

_PX_PER_PT = 96 / 72
_LEGIBLE_PX = 800
_CONTROL = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_VARIABLES = {colour: name for name, colour in PALETTE.items()}
_HEX = re.compile(r"#[0-9a-f]{6}\b")
_REFERENCE = re.compile(r"(?<=#)[\w.]+")


def inline_svg(figure: Figure, name: str, description: str) -> str:
    """Convert a figure to an ``<svg>`` element without external links or fonts.

    Args:
        figure: the figure.
        name: prefix of all ids; unique in the page, so that ids of different figures do not clash.
        description: text alternative for readers who cannot see the figure.
    """
    buffer = StringIO()
    # Without the date, equal figures give equal files.
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(printable(buffer.getvalue()))
    for parent in list(root.iter()):
        # matplotlib's style sheet would act on the whole page.
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
    width_px = width * _PX_PER_PT
    root.attrib = {
        "viewBox": f"0 0 {width:g} {height:g}",
        "role": "img",
        "aria-label": description,
        "style": f"width: {width_px:.0f}px; min-width: {min(width_px, _LEGIBLE_PX):.0f}px",
    }
    return ElementTree.tostring(root, encoding="unicode")


def printable(text: str) -> str:
    """Replace characters that XML and HTML do not allow by U+FFFD."""
    return _CONTROL.sub("\ufffd", text)


def _page_attributes(attributes: dict[str, str], name: str, referenced: set[str]) -> dict[str, str]:
    result = {}
    for key, value in attributes.items():
        key, value = _local(key), value.replace("\n", "").replace("url(#", f"url(#{name}-")
        if key == "id":
            # Ids that nothing refers to would only make the page larger.
            if value not in referenced:
                continue
            value = f"{name}-{value}"
        elif key == "href":
            value = re.sub("^#", f"#{name}-", value)
        elif key == "style":
            # Without a family of its own, text has the font of the page.
            value = _page_colours(re.sub(r"font-family:[^;]*;?", "", value))
        result[key] = value
    return result


def _page_colours(style: str) -> str:
    def variable(match: re.Match[str]) -> str:
        name = _VARIABLES.get(match.group())
        return f"var(--{name})" if name else match.group()

    return _HEX.sub(variable, style)


def _local(tag: str) -> str:
    # ElementTree writes a namespace in braces before each name.
    return tag.rpartition("}")[2]
