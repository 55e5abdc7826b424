"""From events to calls of trackers. Calls are made by a thread of their own, so that a slow server delays no run."""

import io
import logging
import math
import queue
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import pandas as pd

from emi_ray.errors import EmiRayError
from emi_ray.events import LOGGER
from emi_ray.results.runs import HISTORY
from emi_ray.tracking.sink import Sink
from emi_ray.tracking.tracker import RunState, TrackedRun, Tracker, flat
from emi_ray.workspace import Workspace

CLOSE_WITHIN_S = 60.0
"""How long trackers may take, once everything is trained, to send what is left."""

_NOT_VALUES = ("stage", "epoch")

_LOG = logging.getLogger(__name__)


class Listener(logging.Handler):
    """A handler of the events' logger that forwards runs and trials to trackers, used as a context manager."""

    def __init__(self, workspace: Workspace, trackers: Mapping[str, Tracker], study: str | None) -> None:
        super().__init__(logging.DEBUG)
        self._workspace, self._study = workspace, study
        self._sinks = [Sink(name, tracker) for name, tracker in trackers.items()]
        self._queue: queue.SimpleQueue[tuple[str, Mapping[str, Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="emi_ray trackers", daemon=True)
        self._known: dict[str, TrackedRun] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Queue an event of a run or a trial; everything else passes."""
        event = getattr(record, "event", "")
        # Called in the thread that trains, so it must only queue.
        if event in _HANDLERS:
            self._queue.put((event, record.fields))  # type: ignore[attr-defined]

    def __enter__(self) -> "Listener":
        self._level = LOGGER.level
        # Epochs are events of level DEBUG, which are otherwise dropped before any handler.
        LOGGER.setLevel(logging.DEBUG)
        LOGGER.addHandler(self)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # First, so that nothing is queued behind the end.
        LOGGER.removeHandler(self)
        LOGGER.setLevel(self._level)
        self._queue.put(None)
        self._thread.join(CLOSE_WITHIN_S)
        if self._thread.is_alive():
            _LOG.warning(
                "%s did not take everything within %.0f s after the end: what is missing there is in the workspace.",
                " and ".join(sink.name for sink in self._sinks),
                CLOSE_WITHIN_S,
            )

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            event, fields = item
            _HANDLERS[event](self, fields)
        for sink in self._sinks:
            sink.close(self._known)

    def _log(self, run: TrackedRun, stage: str, epoch: int, values: Mapping[str, Any]) -> None:
        # Stage and epoch are the place of the values in the tracker, not values.
        known = {name: value for name, value in numbers(values).items() if name not in _NOT_VALUES}
        for sink in self._sinks:
            sink.log(run, stage, epoch, known)

    def _end(self, run: TrackedRun, state: RunState, scores: Mapping[str, Any]) -> None:
        for sink in self._sinks:
            sink.end(run, state, numbers(scores))

    def _run_began(self, fields: Mapping[str, Any]) -> None:
        tags = {"recipe": fields["recipe"], "seed": str(fields["seed"])}
        if self._study:
            tags["study"] = self._study
        # The seed of a run may differ from training.seed of its recipe.
        settings = {**flat(fields["settings"]), "seed": fields["seed"]}
        name = fields["run"]
        self._known[name] = TrackedRun(name, self._study or fields["recipe"], settings, tags)

    def _epoch(self, fields: Mapping[str, Any]) -> None:
        # A stage-1 encoder that several runs share is named after the first of them; the others take its epochs from
        # their own history when they end.
        name = fields["run"].partition(" ")[0]
        if name in self._known:
            self._log(self._known[name], fields["stage"], int(fields["epoch"]), fields["values"])

    def _run_scores(self, fields: Mapping[str, Any]) -> None:
        name = fields["run"]
        if (run := self._known.get(name)) is not None:
            self._complete(run)
            self._end(run, "finished", flat(fields["scores"]))

    def _complete(self, run: TrackedRun) -> None:
        """Send epochs that were not sent live: of shared or reused encoders, and of earlier commands."""
        with suppress(OSError, ValueError, EmiRayError):  # the final scores matter more
            history = self._workspace.read_bytes(f"runs/{run.name}/{HISTORY}")
            for row in pd.read_csv(io.BytesIO(history)).to_dict("records"):
                self._log(run, str(row["stage"]), int(row["epoch"]), {str(k): v for k, v in row.items()})

    def _run_failed(self, fields: Mapping[str, Any]) -> None:
        if (run := self._known.get(fields["run"])) is not None:
            self._end(run, "failed", {})

    def _trial_result(self, fields: Mapping[str, Any]) -> None:
        states: dict[str, RunState] = {"complete": "finished", "pruned": "pruned", "failed": "failed"}
        study, metric = fields["study"], fields["metric"]
        name = f"{study}/trial-{fields['trial']}"
        run = TrackedRun(
            name, study, flat(fields["settings"]), {"study": study, "trial": str(fields["trial"])}
        )
        self._known[name] = run
        for step, value in fields["steps"].items():
            self._log(run, "trial", step, {f"{metric}_so_far": value})
        self._end(run, states.get(fields["state"], "interrupted"), fields["scores"])


_HANDLERS: dict[str, Callable[[Listener, Mapping[str, Any]], None]] = {
    "run_began": Listener._run_began,
    "epoch": Listener._epoch,
    "run_scores": Listener._run_scores,
    "run_failed": Listener._run_failed,
    "trial_result": Listener._trial_result,
}


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite numbers among ``values``."""
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
