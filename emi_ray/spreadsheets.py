"""Prevent spreadsheets from treating text cells as formulas.

A spreadsheet executes a cell that begins with ``=``, ``+``, ``-`` or ``@``, whether it is quoted in the CSV file or
not (CSV injection, as described by OWASP). A leading apostrophe makes it text. Ids like ``-3g5yACwYnA``, which have
only letters, digits, points and hyphens after a sign, cannot call anything. They are not changed, so that they
still match other tables.
"""

import re

_FORMULA = re.compile(r"[=+\-@\t\r\n＝＋－＠]")
_HARMLESS = re.compile(r"[-+][\w.-]*")


def safe_cell(text: str) -> str:
    """Return ``text``, with a leading apostrophe if a spreadsheet would execute it."""
    if _FORMULA.match(text) and not _HARMLESS.fullmatch(text):
        return f"'{text}"
    return text


def may_execute(text: str) -> bool:
    """Return whether a spreadsheet would treat a cell as a formula that can do something."""
    return safe_cell(text) != text
