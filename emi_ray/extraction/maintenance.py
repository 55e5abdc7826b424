"""During and after a run, merge small parts into few large ones that every reader knows, and update the index."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray

from emi_ray.extraction.pending import store_of
from emi_ray.extraction.pipeline import Pipeline
from emi_ray.runtime import results_of
from emi_ray.store.failures import failure_parts
from emi_ray.store.part_merging import full_groups, mergeable
from emi_ray.store.parts import PartFolder
from emi_ray.store.transcript_store import TranscriptStore

LOOK_EVERY_S = 20.0
"""Interval between two searches for raw parts."""

BESIDE_ACTORS_CPUS = 0.25
"""Logical CPUs that a merge reserves during a run, so that it fits in besides the actors. At the end of a run it
reserves a whole CPU, which limits the number of merges at once on a node, and thereby their memory."""


@dataclass
class PartMaintenance:
    """Merge the raw parts of actors on GPUs during a run, in tasks on any node.

    The driver owns the tasks. If an actor merged its own parts, the merge would compete with its model; if it
    started the tasks, they would be killed when the actor ends.
    """

    pipeline: Pipeline
    clock: Callable[[], float] = time.monotonic
    _running: dict[Any, list[str]] = field(default_factory=dict)
    _looked_at: float = 0.0

    def look(self) -> None:
        """Start merges of raw parts that fill a whole part, at most every :data:`LOOK_EVERY_S`."""
        if self.clock() - self._looked_at < LOOK_EVERY_S:
            return
        self._looked_at = self.clock()
        self._forget_ended()
        # A part in two merges at once would be written twice.
        busy = {path for group in self._running.values() for path in group}
        for spec in self.pipeline.specs.values():
            folder = store_of(self.pipeline.workspace, spec).held
            for group in full_groups(folder, busy):
                self._running[_start(folder, group, BESIDE_ACTORS_CPUS)] = group

    def finish(self) -> None:
        """Wait for the merges, then tidy up the folders that the run has written to."""
        if self._running:
            # ray.wait does not raise the errors of tasks; tidy_up merges again what a failed task has left.
            ray.wait([*self._running], num_returns=len(self._running))
        tidy_up(self.pipeline)

    def _forget_ended(self) -> None:
        """Forget merges that have ended.

        The parts of a merge that failed are found again, here or at the end of the run.
        """
        ended = (
            ray.wait([*self._running], num_returns=len(self._running), timeout=0)[0] if self._running else []
        )
        for task in ended:
            del self._running[task]


def tidy_up(pipeline: Pipeline) -> None:
    """Merge small parts and refresh the indexes of the folders that a run has written to.

    Tasks on all nodes merge the parts.
    """
    stores = [store_of(pipeline.workspace, spec) for spec in pipeline.specs.values()]
    held, failures = [store.held for store in stores], [failure_parts(store) for store in stores]
    if pipeline.transcriber is not None:
        held.append(TranscriptStore(pipeline.workspace, pipeline.transcriber.fingerprint).held)
    groups = [(folder, group) for folder in [*held, *failures] for group in mergeable(folder)]
    if groups:
        results_of([_start(folder, group, 1) for folder, group in groups])
    for folder in held:
        folder.tidy()
    for folder in failures:  # not tidied: a clip has one row for each attempt, which are no duplicates
        folder.refresh_index()


def _start(folder: PartFolder, parts: list[str], num_cpus: float) -> Any:
    """Start a task that merges parts."""
    return ray.remote(num_cpus=num_cpus, max_retries=3)(_merge).remote(folder, parts)


def _merge(folder: PartFolder, parts: list[str]) -> None:
    folder.merge(parts)
