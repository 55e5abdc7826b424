"""Errors that a user can act on."""

import difflib
from collections.abc import Iterable


class EmiRayError(Exception):
    """Work that was asked for could not be done. Ends a command with exit code 1."""


class UserError(EmiRayError):
    """A mistake in what the user gave. Ends a command with exit code 2 and no traceback.

    The message names the file, the field, the value and the remedy.
    """


class ClipError(EmiRayError):
    """One clip, or one modality of it, cannot be processed; it is quarantined and nothing else suffers.

    Args:
        stage: where it happened: ``media``, ``faces``, ``vision``, ``worker``, …
        reason: a sentence that a person understands.
    """

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(f"{stage}: {reason}")
        self.stage = stage
        self.reason = reason


def choices(wrong: str, known: Iterable[str]) -> str:
    """A hint that names the nearest valid name and then lists all: ``did you mean 'x'? Choose from: …``."""
    known = sorted(known)
    near = difflib.get_close_matches(wrong, known, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return f"{hint}Choose from: {', '.join(known)}."
