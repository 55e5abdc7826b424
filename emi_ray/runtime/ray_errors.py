"""What remote functions return, and what Ray's errors mean."""

import re
from typing import Any

from emi_ray.errors import EmiRayError
from emi_ray.storage import in_words


def results_of(references: Any) -> Any:
    """What remote functions return.

    Raises:
        EmiRayError: as one of them raised it, or saying how one broke down.
    """
    import ray

    try:
        return ray.get(references)
    except ray.exceptions.RayError as error:
        raise in_a_sentence(error) from error


def in_a_sentence(error: Exception) -> EmiRayError:
    """An error of Ray as one of ours: what a task raised, or that Ray lost what the command cannot do without."""
    from ray.exceptions import RayTaskError

    if not isinstance(error, RayTaskError):
        return EmiRayError(
            f"Ray lost a process or a node that the command cannot do without ({type(error).__name__}: "
            f"{last_words(str(error))}). What is done is kept; the same command goes on."
        )
    if isinstance(error.cause, EmiRayError):
        return error.cause
    return EmiRayError(f"A worker broke down: {in_words(error.cause)}")


def last_words(text: str) -> str:
    """What Ray says of an error, in a line: the last line of a traceback where there is one; else the first."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    raised = [line for line in lines if re.match(r"[\w.]*(Error|Exception): ", line)]
    return [*lines[:1], *raised][-1].rstrip(".") if lines else "no reason given"
