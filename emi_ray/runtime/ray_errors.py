"""Get results of remote functions, end them, and translate Ray's errors."""

import re
from contextlib import suppress
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


_END_WITHIN_S = 10.0


def end_tasks(tasks: list[Any], finish_within_s: float = 0.0) -> None:
    """End remote functions whose results nobody wants any more. Ray itself lets them run.

    Args:
        tasks: their references.
        finish_within_s: time that they get to finish by themselves; those that do not are killed.
    """
    import ray

    if not tasks:
        return
    with suppress(ray.exceptions.RayError):  # all nodes may be gone, or the session may have ended
        unfinished = ray.wait(tasks, num_returns=len(tasks), timeout=finish_within_s)[1]
        for task in unfinished:
            ray.cancel(task, force=True)
        if unfinished:
            ray.wait(unfinished, num_returns=len(unfinished), timeout=_END_WITHIN_S)


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
