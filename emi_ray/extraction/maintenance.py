"""During and after a run, merge small parts into few large ones that every reader knows, and update the index."""

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import ray

from emi_ray.errors import EmiRayError
from emi_ray.extraction.pending import store_of
from emi_ray.extraction.pipeline import Pipeline
from emi_ray.runtime import end_tasks, machine, results_of
from emi_ray.runtime.priority import lower_priority
from emi_ray.store.failures import failure_parts
from emi_ray.store.part_merging import full_groups, mergeable
from emi_ray.store.parts import PartFolder
from emi_ray.store.transcript_store import TranscriptStore

LOOK_EVERY_S = 20.0
"""Interval between two searches for raw parts."""

CORES_OF_A_MERGE = 4
"""Number of cores for each merge that runs at the same time during an extraction; the others decode."""

BESIDE_ACTORS_CPUS = 0.25
"""Logical CPUs that a merge reserves during a run, so that it fits in besides the actors. At the end of a run it
reserves a whole CPU, which limits the number of merges on a node, and thereby their memory."""

STOP_WITHIN_S = 10.0

_OWN_PROCESSES = {"env_vars": {"EMI_RAY_MERGES": "1"}}
"""Runtime environment of merges during a run. Ray reuses a process only for tasks of the same environment, so that no
other task runs in these processes, whose priority stays lower."""


@dataclass
class PartMaintenance:
    """Merge the raw parts of actors on GPUs during a run, in tasks on any node.

    The driver owns the tasks. If an actor merged its own parts, the merge would compete with its model; if it
    started the tasks, they would be killed when the actor ends. Only a few merges run at once: each would have a
    process of its own, whose start and fresh memory cost as much as the merge.
    """

    pipeline: Pipeline
    clock: Callable[[], float] = time.monotonic
    _merges: "_Merges" = field(
        default_factory=lambda: _Merges(
            _merge_with_low_priority, num_cpus=BESIDE_ACTORS_CPUS, runtime_env=_OWN_PROCESSES
        )
    )
    _looked_at: float = 0.0

    def look(self) -> None:
        """Start merges of raw parts that fill a whole part; parts are searched at most every :data:`LOOK_EVERY_S`."""
        if self.clock() - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = self.clock()
            self._merges.at_once = max(machine().cpus // CORES_OF_A_MERGE, 1)  # nodes may have joined
            for spec in self.pipeline.specs.values():
                folder = store_of(self.pipeline.workspace, spec).held
                # A part in two merges at once would be written twice.
                self._merges.add(folder, full_groups(folder, self._merges.parts))
        self._merges.start()

    def finish(self) -> None:
        """Wait for the running merges, then tidy up the folders that the run has written to."""
        self._merges.end()
        tidy_up(self.pipeline)

    def stop(self) -> None:
        """End the running merges, so that none works beside the next run."""
        self._merges.stop()


class _Merges:
    """A queue of merges in remote tasks. At most ``at_once`` run at the same time: Ray then reuses their processes.

    Args:
        merge: merges parts of a folder, in a task.
        options: options of the tasks, as for ``ray.remote``.
    """

    def __init__(
        self, merge: Callable[[PartFolder, list[str]], None], at_once: int = 1, **options: Any
    ) -> None:
        self._task = ray.remote(max_retries=3, scheduling_strategy="SPREAD", **options)(merge)
        self.at_once = at_once
        self._waiting: deque[tuple[PartFolder, list[str]]] = deque()
        self._running: dict[Any, list[str]] = {}

    @property
    def parts(self) -> set[str]:
        """The parts that are being merged or wait for it."""
        groups = [*self._running.values(), *(group for _, group in self._waiting)]
        return {path for group in groups for path in group}

    def add(self, folder: PartFolder, groups: Iterable[list[str]]) -> None:
        self._waiting.extend((folder, group) for group in groups)

    def start(self) -> None:
        """Forget merges that have ended, and start waiting ones in their place.

        The parts of a merge that failed are found again by the next search.
        """
        self._take_ended(timeout_s=0)
        self._fill()

    def end(self) -> None:
        """Wait for the running merges, and drop those that have not started: their parts stay as they are."""
        self._waiting.clear()
        while self._running:
            self._take_ended(timeout_s=None)

    def run_all(self) -> None:
        """Do all merges.

        Raises:
            EmiRayError: one or more of them failed; the others are done.
        """
        problem: EmiRayError | None = None
        try:
            while self._waiting or self._running:
                self._fill()
                try:
                    results_of(self._take_ended(timeout_s=None))
                except EmiRayError as error:
                    problem = problem or error
        finally:  # after an interrupt some are still running
            self.stop()
        if problem:
            raise problem

    def stop(self) -> None:
        """Drop the merges that have not started. Give the running ones :data:`STOP_WITHIN_S` seconds to finish, then
        kill them.

        A merge that went on would delete parts beside the next run. That run removes repeated rows, and would take
        those of the merged part for repetitions of the rows that are about to be deleted.
        """
        self._waiting.clear()
        running, self._running = [*self._running], {}
        end_tasks(running, STOP_WITHIN_S)

    def _fill(self) -> None:
        while self._waiting and len(self._running) < self.at_once:
            folder, parts = self._waiting.popleft()
            self._running[self._task.remote(folder, parts)] = parts

    def _take_ended(self, timeout_s: float | None) -> list[Any]:
        """Return the merges that have ended by now or, without a limit, as soon as there is one."""
        if not self._running:
            return []
        wanted = 1 if timeout_s is None else len(self._running)
        # ray.wait does not raise the errors of tasks.
        ended: list[Any] = ray.wait([*self._running], num_returns=wanted, timeout=timeout_s)[0]
        for task in ended:
            del self._running[task]
        return ended


def tidy_up(pipeline: Pipeline) -> None:
    """Remove repeated rows, merge small parts and refresh the indexes of the folders that a run has written to.

    Tasks on all nodes merge the parts.
    """
    stores = [store_of(pipeline.workspace, spec) for spec in pipeline.specs.values()]
    held, failures = [store.held for store in stores], [failure_parts(store) for store in stores]
    if pipeline.transcriber is not None:
        held.append(TranscriptStore(pipeline.workspace, pipeline.transcriber.fingerprint).held)
    # Of several rows of a clip the first one counts. Merging changes the order of parts, so the others are
    # removed before it.
    for folder in held:
        folder.tidy()
    merges = _Merges(_merge, at_once=machine().cpus, num_cpus=1)
    for folder in [*held, *failures]:
        merges.add(folder, mergeable(folder))
    merges.run_all()
    for folder in held:
        folder.tidy()
    for folder in failures:  # not tidied: a clip has one row for each attempt, which are no duplicates
        folder.refresh_index()


def _merge_with_low_priority(folder: PartFolder, parts: list[str]) -> None:
    lower_priority()  # decoding has priority, because the GPUs wait for it
    _merge(folder, parts)


def _merge(folder: PartFolder, parts: list[str]) -> None:
    folder.merge(parts)
