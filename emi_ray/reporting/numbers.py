"""How the page spells numbers; what is not known is a dash."""

import math

UNKNOWN = "–"


def score(value: float | None, decimals: int = 3) -> str:
    """With a set number of decimals and a true minus sign."""
    if value is None or math.isnan(value):
        return UNKNOWN
    return f"{value:.{decimals}f}".replace("-", "−")


def signed(value: float | None, decimals: int = 4) -> str:
    """As :func:`score`, with a plus sign where it is not negative."""
    text = score(value, decimals)
    return text if text == UNKNOWN or text.startswith("−") else f"+{text}"


def grouped(value: float | None) -> str:
    """With commas between thousands; decimals only where there are any."""
    if value is None or math.isnan(value):
        return UNKNOWN
    return f"{value:,.0f}" if value == round(value) else f"{value:,.1f}"


def percent(share: float | None) -> str:
    """A share as percent with one decimal."""
    return UNKNOWN if share is None or math.isnan(share) else f"{share:.1%}".replace("%", " %")


def p_value(value: float | None) -> str:
    """Three decimals, or that it is below them."""
    return "< 0.001" if value is not None and value < 0.001 else score(value)


def plural(count: int, noun: str) -> str:
    """``1 clip``, ``2 clips``."""
    return f"{grouped(count)} {noun}{'' if count == 1 else 's'}"


def heat(r: float) -> str:
    """The style of a table cell that shows a correlation: the stronger, the less transparent."""
    if math.isnan(r):
        return ""
    return f"background: rgba(var(--{'positive' if r >= 0 else 'negative'}), {0.6 * min(abs(r), 1):.2f})"
