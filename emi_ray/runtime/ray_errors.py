"""Get results of remote functions, and translate Ray's errors."""

import re
from typing import Any

from emi_ray.errors import EmiRayError
from emi_ray.storage import in_words


def results_of(references: Any) -> Any:
    """Return the results of remote functions.

    Raises:
        EmiRayError: the error that a function raised, or a description of its failure.
    """
    import ray

    try:
        return ray.get(references)
    except ray.exceptions.RayError as error:
        raise in_a_sentence(error) from error


def in_a_sentence(error: Exception) -> EmiRayError:
    """Return the error that a task raised, or an error about the loss of a process or node."""
    from ray.exceptions import RayTaskError

    if not isinstance(error, RayTaskError):
        return EmiRayError(
            f"Ray lost a process or a node that the command needs ({type(error).__name__}: "
            f"{last_words(str(error))}). What is done is kept; repeat the command to continue."
        )
    if isinstance(error.cause, EmiRayError):
        return error.cause
    return EmiRayError(f"A worker failed: {in_words(error.cause)}")


def last_words(text: str) -> str:
    """Return one line of an error message of Ray: the last line of a traceback if there is one, otherwise the first
    line.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    raised = [line for line in lines if re.match(r"[\w.]*(Error|Exception): ", line)]
    return [*lines[:1], *raised][-1].rstrip(".") if lines else "no reason given"
