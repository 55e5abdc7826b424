"""What Ray Tune is given: a searcher, a scheduler and a callback that all ask and tell one study."""

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
from emi_ray.runtime.results import last_words
from emi_ray.storage import StorageError, in_words, is_outage
from emi_ray.tuning.study import TuningStudy

OnChange = Callable[[], None]
"""Called on the driver whenever something of the study has changed."""

_FAILURES_IN_A_ROW = 10
_LOST_TOGETHER_S = 30.0
"""Trials that are lost within this time may have gone with one node: they count as one failure."""

_LONGEST_REASON = 300


@dataclass(frozen=True)
class SearchLimits:
    """When to stop: at so many finished trials in all, or no new trial after so many seconds."""

    num_trials: int
    timeout_s: float | None = None


class Watcher:
    """Between Tune, which runs trials, and the study, which knows them by number."""

    def __init__(self, study: TuningStudy, limits: SearchLimits, on_change: OnChange) -> None:
        self.study = study
        self.failures_in_a_row = 0
        self.last_failure = ""
        self._limits = limits
        self._on_change = on_change
        self._started = time.monotonic()
        self._counted_loss_at = float("-inf")

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """Tune pickles what it is given, to restore a search from; ours goes on from the study instead."""
        return object, ()

    def next_trial(self) -> dict[str, Any] | str | None:
        """The configuration of a trial, None to wait, or that all is done."""
        counts = self.study.counts
        if self._is_over(counts.finished):
            return Searcher.FINISHED
        if counts.finished + counts.running >= self._limits.num_trials:
            return None  # one of those that run might fail and need another in its place
        candidate = self.study.ask()
        if candidate is None:
            return Searcher.FINISHED
        self._on_change()
        return {"number": candidate.number, "recipe": candidate.recipe.model_dump(mode="json")}

    def note(self, number: int, result: Mapping[str, Any]) -> bool:
        """Take in what a trial reports; True if it should stop. Tune repeats the last report of a trial."""
        if not self.study.is_running(number):
            return False
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
        """
        Raises:
            EmiRayError: the search was given up because trial after trial failed.
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
        """A trial was lost with its process or node, or by an outage of the store: it is done again."""
        if self.study.is_running(number):
            self.study.lose(number)
            self._tell_end(number, "lost", reason=reason)
            if time.monotonic() - self._counted_loss_at > _LOST_TOGETHER_S:
                self._counted_loss_at = time.monotonic()
                self.failures_in_a_row += 1
            self.last_failure = f"trial {number}: {reason}"
            self._on_change()

    def _tell_end(self, number: int, state: str, **fields: Any) -> None:
        tell("trial_ended", study=self.study.name, trial=number, state=state, **fields)
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
    """Lets Tune take its trials from the study."""

    def __init__(self, watcher: Watcher) -> None:
        super().__init__(metric="value", mode="max")
        self._watcher = watcher

    def suggest(self, trial_id: str) -> Any:
        return self._watcher.next_trial()

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """The scheduler tells the study; a failure is told with its reason by the callback."""

    def save(self, checkpoint_path: str) -> None:
        """There is nothing to save: the study is durable."""

    def restore(self, checkpoint_path: str) -> None:
        """A search goes on with a new searcher."""


class StudyScheduler(FIFOScheduler):
    """Lets the study decide which trials stop early."""

    def __init__(self, watcher: Watcher) -> None:
        super().__init__()
        self._watcher = watcher

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict) -> str:
        return self.STOP if self._watcher.note(trial.config["number"], result) else self.CONTINUE


class Failures(tune.Callback):
    """Tells the study why a trial broke down."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        cause = _cause(trial)
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
"""What a trial raises whose process or node died, or one that holds the features; or whose store is out of reach."""


def _is_loss(cause: Exception | None) -> bool:
    """Whether what ended a trial says nothing of its settings."""
    return isinstance(cause, _LOST) or (isinstance(cause, OSError) and is_outage(cause))


def _cause(trial: Trial) -> Exception | None:
    """What a trial raised. Tune has it in a file that it has not moved to storage yet."""
    path = Path(trial.pickled_error_file)
    error = cloudpickle.loads(path.read_bytes()) if path.is_file() else None
    return getattr(error, "cause", None) or error


def _reason(cause: Exception | None) -> str:
    """Why a trial broke down, in a line."""
    return last_words(in_words(cause))[:_LONGEST_REASON] if cause is not None else "unknown"
