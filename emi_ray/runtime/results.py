"""What remote functions return, and what Ray's errors mean."""

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
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        return EmiRayError(
            f"Ray lost a process or a node that the command cannot do without ({type(error).__name__}: {reason}). "
            f"What is done is kept; the same command goes on."
        )
    if isinstance(error.cause, EmiRayError):
        return error.cause
    return EmiRayError(f"A worker broke down: {in_words(error.cause)}")
