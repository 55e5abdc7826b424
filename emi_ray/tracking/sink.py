"""One tracker, guarded: its errors are warnings, and what it did not take is sent again when the run ends."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from emi_ray.tracking.tracker import RunState, TrackedRun, Tracker

_FAILURES = 3
"""A tracker is switched off after so many failed calls in a row."""

_LONGEST_REASON = 300

_LOG = logging.getLogger(__name__)


class Sink:
    """Passes runs on to one tracker: begins each run with its first message, and sends each epoch once."""

    def __init__(self, name: str, tracker: Tracker) -> None:
        self.name = name
        self._tracker = tracker
        self._failures = 0
        self._sent: dict[str, set[tuple[str, int]]] = {}
        """The runs that are open, each with the epochs that were sent."""
        self._ends: dict[str, tuple[RunState, Mapping[str, float]]] = {}
        """How runs ended whose end was not taken yet."""

    @property
    def is_off(self) -> bool:
        """Whether the tracker is switched off."""
        return self._failures >= _FAILURES

    def log(self, run: TrackedRun, stage: str, epoch: int, values: Mapping[str, float]) -> None:
        """Send an epoch, unless it was sent already."""
        # The history at the end of a run contains all epochs, also those that were sent live.
        if self.is_off or (stage, epoch) in self._sent.get(run.name, ()):
            return
        with self._guarded():
            self._begin(run)
            self._tracker.log(run, stage, epoch, values)
            self._sent[run.name].add((stage, epoch))

    def end(self, run: TrackedRun, state: RunState, scores: Mapping[str, float]) -> None:
        """End a run."""
        if self.is_off:
            return
        # Remembered until the tracker has taken it; close() tries again.
        self._ends[run.name] = (state, scores)
        with self._guarded():
            self._begin(run)
            self._tracker.end(run, state, scores)
            del self._sent[run.name], self._ends[run.name]

    def close(self, known: Mapping[str, TrackedRun]) -> None:
        """End the runs that are still open, as interrupted if they did not end, then the tracker."""
        for name in list(dict.fromkeys([*self._sent, *self._ends])):
            self.end(known[name], *self._ends.get(name, ("interrupted", {})))
        with self._guarded():
            self._tracker.close()

    def _begin(self, run: TrackedRun) -> None:
        if run.name not in self._sent:
            self._tracker.begin(run)
            self._sent[run.name] = set()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Whatever the tracker raises within the block is a warning."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - trackers raise whatever they like, and must cost no run
            self._failures += 1
            self._warn(error)
        else:
            self._failures = 0

    def _warn(self, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0][:_LONGEST_REASON].rstrip(".")
        # Only the first failure and the last one are told, not every epoch between them.
        if self._failures == 1:
            _LOG.warning("The tracker %s failed: %s. Training goes on.", self.name, reason)
        elif self._failures == _FAILURES:
            _LOG.warning(
                "The tracker %s failed %d times in a row and is switched off for the rest of this command: %s.",
                self.name,
                _FAILURES,
                reason,
            )
