"""Formatting of numbers for the report; an unknown number is a dash."""

import math

UNKNOWN = "–"


def format_score(value: float | None, decimals: int = 3) -> str:
    """Format with a fixed number of decimals and a typographic minus sign."""
    if value is None or math.isnan(value):
        return UNKNOWN
    return f"{value:.{decimals}f}".replace("-", "−")


def signed(value: float | None, decimals: int = 4) -> str:
    """Format like :func:`score`, with a plus sign if the value is not negative."""
    text = format_score(value, decimals)
    # format_score has replaced the hyphen by a minus sign (U+2212).
    return text if text == UNKNOWN or text.startswith("−") else f"+{text}"


def grouped(value: float | None) -> str:
    """Format with commas between thousands, and one decimal if the value is not an integer."""
    if value is None or math.isnan(value):
        return UNKNOWN
    return f"{value:,.0f}" if value == round(value) else f"{value:,.1f}"


def percent(share: float | None) -> str:
    """Format a share as a percentage with one decimal."""
    return UNKNOWN if share is None or math.isnan(share) else f"{share:.1%}".replace("%", " %")


def p_value(value: float | None) -> str:
    """Format a p-value with three decimals, or as ``< 0.001``."""
    return "< 0.001" if value is not None and value < 0.001 else format_score(value)


def heat(r: float) -> str:
    """Return the CSS style of a table cell with a correlation: the stronger, the less transparent."""
    if math.isnan(r):
        return ""
    return f"background: rgba(var(--{'positive' if r >= 0 else 'negative'}), {0.6 * min(abs(r), 1):.2f})"
