"""Counts and numbers in messages."""

import re

NUMBERS = r"\d[\d.,]*"
"""Numbers in a message, such as counts, shapes and addresses."""

_OF_ONE = {"are": "is", "were": "was", "have": "has", "belong": "belongs"}


def plural(count: int, noun: str, verb: str = "") -> str:
    """Format a count with its noun: ``1 clip``, ``1,200 clips``.

    Args:
        verb: a verb that follows and agrees with the count, given for several things: ``are``, ``have``.
    """
    if count == 1:
        return f"1 {noun} {_OF_ONE[verb]}" if verb else f"1 {noun}"
    return f"{count:,} {noun}s {verb}".rstrip()


def without_numbers(message: str) -> str:
    """Return a message without its numbers. Messages that differ only in numbers have the same cause."""
    return re.sub(NUMBERS, "", message)
