"""Errors with a message for the user."""

import difflib
from collections.abc import Iterable


class EmiRayError(Exception):
    """The requested work failed. Ends a command with exit code 1."""


class UserError(EmiRayError):
    """A mistake in the user's input. Ends a command with exit code 2 and no traceback.

    The message names the file, the field, the value and the remedy.
    """


class ClipError(EmiRayError):
    """One clip, or one modality of it, cannot be processed. It is quarantined, and nothing else is affected.

    Args:
        stage: stage of the failure: ``media``, ``faces``, ``vision``, ``worker``, …
        reason: a sentence for users.
    """

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(f"{stage}: {reason}")
        self.stage = stage
        self.reason = reason


def choices(wrong: str, known: Iterable[str]) -> str:
    """Return a hint, to follow a colon, with the most similar valid name and all names: ``did you mean 'x'? Choose
    from: …``.
    """
    known = sorted(known)
    near = difflib.get_close_matches(wrong, known, n=1)
    names = ", ".join(known)
    return f"did you mean '{near[0]}'? Choose from: {names}." if near else f"choose from: {names}."
