"""Text cells that a spreadsheet does not take for formulas.

A spreadsheet executes a cell that begins with ``=``, ``+``, ``-`` or ``@``, whether it is quoted in the CSV file or
not (CSV injection, as OWASP describes it). An apostrophe in front makes it text. Ids such as ``-3g5yACwYnA``, which
hold nothing but letters, digits, points and hyphens behind a sign, can call nothing, and stay as they are, so that
they still join with other tables.
"""

import re

_FORMULA = re.compile(r"[=+\-@\t\r\n＝＋－＠]")
_HARMLESS = re.compile(r"[-+][\w.-]*")


def safe_cell(text: str) -> str:
    """``text``, behind an apostrophe where a spreadsheet would execute it."""
    if _FORMULA.match(text) and not _HARMLESS.fullmatch(text):
        return f"'{text}"
    return text


def may_execute(text: str) -> bool:
    """Whether a spreadsheet would take a cell for a formula that can do something."""
    return safe_cell(text) != text
