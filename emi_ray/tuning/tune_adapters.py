"""Adapters between Ray Tune and a study: a searcher, a scheduler and a callback that use the same study."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle, tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from emi_ray.errors import EmiRayError
from emi_ray.events import count, tell
from emi_ray.runtime.ray_errors import last_words
from emi_ray.storage import StorageError, in_words, is_outage
from emi_ray.tuning.study import TuningStudy

OnChange = Callable[[], None]
"""Called on the driver whenever the study has changed."""

# Single failures are due to unlucky settings; so many in a row are due to something else.
_FAILURES_IN_A_ROW = 10
_LOST_TOGETHER_S = 30.0
"""Trials that are lost within this time may have been on the same node, so they count as one failure."""

_LONGEST_REASON = 300


@dataclass(frozen=True)
class SearchLimits:
    """When a search stops: at a total of ``num_trials`` finished trials; no new trial starts after ``timeout_s``."""

    num_trials: int
    timeout_s: float | None = None


class Watcher:
    """Mediates between Tune, which runs the trials, and the study, which identifies them by number."""

    def __init__(self, study: TuningStudy, limits: SearchLimits, on_change: OnChange) -> None:
        self.study = study
        self.failures_in_a_row = 0
        self.last_failure = ""
        self._limits = limits
        self._on_change = on_change
        self._started = time.monotonic()
        self._counted_loss_at = float("-inf")

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """Pickle as an empty object. Tune pickles its arguments to restore a search; we resume from the study."""
        return object, ()

    def next_trial(self) -> dict[str, Any] | str | None:
        """Return the configuration of the next trial, None to wait, or ``Searcher.FINISHED``."""
        counts = self.study.counts
        # FINISHED ends the search for good: Tune never asks again.
        if self._is_over(counts.finished):
            return Searcher.FINISHED
        if counts.finished + counts.running >= self._limits.num_trials:
            return None  # if a running trial fails, another one is needed
        candidate = self.study.ask()
        if candidate is None:
            return Searcher.FINISHED
        self._on_change()
        return {"number": candidate.number, "recipe": candidate.recipe.model_dump(mode="json")}

    def note(self, number: int, result: Mapping[str, Any]) -> bool:
        """Record a report of a trial; returns whether the trial should stop.

        Tune repeats the last report of a trial, which is ignored.
        """
        if not self.study.is_running(number):
            return False
        # The last report of a trial has its score, the others only a value so far.
        if "score" in result:
            self.study.complete(number, result["score"])
            self._tell_end(number, "complete", score=result["score"].value)
            self.failures_in_a_row = 0
        elif self.study.report(number, result["step"], result["value"]):
            self.study.prune(number)
            self._tell_end(number, "pruned", score=result["value"])
            self.failures_in_a_row = 0
            self._on_change()
            return True
        self._on_change()
        return False

    def raise_if_hopeless(self) -> None:
        """Raise an error if the search was given up.

        Raises:
            EmiRayError: many trials failed in a row.
        """
        if self.failures_in_a_row >= _FAILURES_IN_A_ROW:
            raise EmiRayError(
                f"{self.failures_in_a_row} trials failed in a row; the last: {self.last_failure}"
            )

    def fail(self, number: int, reason: str) -> None:
        if self.study.is_running(number):
            self.study.fail(number, reason)
            self._tell_end(number, "failed", reason=reason)
            self.failures_in_a_row += 1
            self.last_failure = f"trial {number}: {reason}"
            self._on_change()

    def lose(self, number: int, reason: str) -> None:
        """Record that a trial was lost with its process or node, or by an outage of the store; it is repeated."""
        if self.study.is_running(number):
            self.study.lose(number)
            self._tell_end(number, "lost", reason=reason)
            # A node that dies takes many trials with it, which must not end the search.
            if time.monotonic() - self._counted_loss_at > _LOST_TOGETHER_S:
                self._counted_loss_at = time.monotonic()
                self.failures_in_a_row += 1
            self.last_failure = f"trial {number}: {reason}"
            self._on_change()

    def _tell_end(self, number: int, state: str, **fields: Any) -> None:
        tell("trial_ended", study=self.study.name, trial=number, state=state, **fields)
        count("trial_result", study=self.study.name, trial=number, state=state, **self.study.facts_of(number))
        count("trials", study=self.study.name, states=asdict(self.study.counts))

    def _is_over(self, finished: int) -> bool:
        seconds = time.monotonic() - self._started
        return (
            finished >= self._limits.num_trials
            or self.study.is_exhausted
            or self.failures_in_a_row >= _FAILURES_IN_A_ROW
            or (self._limits.timeout_s is not None and seconds > self._limits.timeout_s)
        )


class StudySearcher(Searcher):
    """A searcher of Tune that takes its trials from the study."""

    def __init__(self, watcher: Watcher) -> None:
        # Tune wants a metric, but does not decide anything with it here.
        super().__init__(metric="value", mode="max")
        self._watcher = watcher

    def suggest(self, trial_id: str) -> Any:
        return self._watcher.next_trial()

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """Do nothing: the scheduler reports results to the study, and the callback reports failures."""

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the study is stored elsewhere."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: a resumed search creates a new searcher."""


class StudyScheduler(FIFOScheduler):
    """A scheduler of Tune that lets the study decide which trials stop early."""

    def __init__(self, watcher: Watcher) -> None:
        super().__init__()
        self._watcher = watcher

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict) -> str:
        return self.STOP if self._watcher.note(trial.config["number"], result) else self.CONTINUE


class Failures(tune.Callback):
    """A callback of Tune that reports failed trials to the study, with the reason."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        cause = _cause(trial)
        # The trial stays in Tune as failed; the study queues its parameters under a new number.
        tell = self._watcher.lose if _is_loss(cause) else self._watcher.fail
        tell(trial.config["number"], _reason(cause))


_LOST = (
    ray.exceptions.ActorDiedError,
    ray.exceptions.ActorUnavailableError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.ObjectLostError,
    ray.exceptions.WorkerCrashedError,
    StorageError,
)
"""Errors of a trial whose process or node died, or whose features were on a node that died."""


def _is_loss(cause: Exception | None) -> bool:
    """Return whether a trial ended for a reason that is not due to its settings."""
    return isinstance(cause, _LOST) or (isinstance(cause, OSError) and is_outage(cause))


def _cause(trial: Trial) -> Exception | None:
    """Return the exception of a trial, from a local file that Tune has not moved to storage yet."""
    path = Path(trial.pickled_error_file)
    error = cloudpickle.loads(path.read_bytes()) if path.is_file() else None
    return getattr(error, "cause", None) or error


def _reason(cause: Exception | None) -> str:
    """Return the reason of a failure in one line."""
    return last_words(in_words(cause))[:_LONGEST_REASON] if cause is not None else "unknown"
