"""Tell a stage that cannot work from clips that cannot be processed."""

import threading
from collections.abc import Callable, Collection, Sequence
from typing import Any

from emi_ray.extraction.batches import Attempt
from emi_ray.wording import without_numbers

MANY = 64
"""Number of clips in a row that fail alike after which a stage counts as broken although it has worked before."""


class BrokenStage:
    """Watches the results of one actor, and tells whether the stage is broken.

    A stage is broken if clips fail in the same unforeseen way: all clips of a batch if the stage has never worked,
    otherwise :data:`MANY` in a row. Clips that have failed before do not count, because a retry consists of them.

    Args:
        has_worked: returns whether an actor of this stage has ever stored a result.
    """

    def __init__(self, has_worked: Callable[[], bool]) -> None:
        self._has_worked = has_worked
        self._worked_here = False
        self._reason = ""
        """The reason of the latest clip if its failure was unforeseen."""
        self._num_alike = 0
        self._lock = threading.Lock()

    def found_in(self, results: Sequence[Attempt[Any]], tried_before: Collection[str]) -> str | None:
        """Process the results of the next batch, and return why the stage is broken; None if it seems to work.

        Args:
            tried_before: ids of clips that have failed in an earlier run.
        """
        counting = [result for result in results if result.clip_id not in tried_before]
        with self._lock:
            for result in counting:
                self._count(result)
            num_alike, reason, worked_here = self._num_alike, self._reason, self._worked_here
        is_whole_batch = 1 < len(counting) <= num_alike
        if num_alike < MANY and not (is_whole_batch and not worked_here and not self._has_worked()):
            return None
        hint = (
            "" if num_alike < MANY else " The first of them are quarantined: --retry-failed tries them again."
        )
        return f"{num_alike} clips one after another fail alike ({reason}).{hint}"

    def _count(self, result: Attempt[Any]) -> None:
        self._worked_here |= result.failure is None
        if result.failure is None or not result.is_unforeseen:
            self._num_alike, self._reason = 0, ""
            return
        reason = result.failure[1]
        is_alike = without_numbers(reason) == without_numbers(self._reason)
        self._num_alike, self._reason = self._num_alike + 1 if is_alike else 1, reason
