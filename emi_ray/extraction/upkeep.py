"""During and after a run: parts become few and readable by everyone, and the index knows all of them."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray

from emi_ray.extraction.pipeline import Pipeline
from emi_ray.extraction.work import store_of
from emi_ray.failures import failure_parts
from emi_ray.merging import full_groups, mergeable
from emi_ray.parts import PartFolder
from emi_ray.runtime import results_of
from emi_ray.transcript_store import TranscriptStore

LOOK_EVERY_S = 20.0
"""Between two looks for raw parts."""

BESIDE_ACTORS_CPUS = 0.25
"""That a merge during a run reserves, so that it finds room beside the actors. At the end it takes a whole CPU, which
bounds how many run at once on a node, and so their memory."""


@dataclass
class Upkeep:
    """Merges the raw parts that actors on GPUs leave behind, by tasks on any node, while a run goes on.

    The driver owns the tasks. An actor that merged its own parts would do it beside its model, and the tasks of an
    actor that ends are killed.
    """

    pipeline: Pipeline
    clock: Callable[[], float] = time.monotonic
    _running: dict[Any, list[str]] = field(default_factory=dict)
    _looked_at: float = 0.0

    def look(self) -> None:
        """Start merging what fills a part, at most every :data:`LOOK_EVERY_S`."""
        if self.clock() - self._looked_at < LOOK_EVERY_S:
            return
        self._looked_at = self.clock()
        self._forget_ended()
        busy = {path for group in self._running.values() for path in group}
        for spec in self.pipeline.specs.values():
            folder = store_of(self.pipeline.workspace, spec).held
            for group in full_groups(folder, busy):
                self._running[_start(folder, group, BESIDE_ACTORS_CPUS)] = group

    def finish(self) -> None:
        """Wait for the merges, and bring the folders that the run has written to into order."""
        if self._running:
            ray.wait([*self._running], num_returns=len(self._running))
        tidy_up(self.pipeline)

    def _forget_ended(self) -> None:
        """What a merge that failed has left undone is found again, here or at the end of the run."""
        ended = (
            ray.wait([*self._running], num_returns=len(self._running), timeout=0)[0] if self._running else []
        )
        for task in ended:
            del self._running[task]


def tidy_up(pipeline: Pipeline) -> None:
    """Bring the folders that a run has written to into order. Parts are merged by tasks on all nodes."""
    stores = [store_of(pipeline.workspace, spec) for spec in pipeline.specs.values()]
    held, failures = [store.held for store in stores], [failure_parts(store) for store in stores]
    if pipeline.transcriber is not None:
        held.append(TranscriptStore(pipeline.workspace, pipeline.transcriber.fingerprint).held)
    groups = [(folder, group) for folder in [*held, *failures] for group in mergeable(folder)]
    if groups:
        results_of([_start(folder, group, 1) for folder, group in groups])
    for folder in held:
        folder.tidy()
    for folder in failures:  # a clip stands there once an attempt
        folder.refresh_index()


def _start(folder: PartFolder, parts: list[str], num_cpus: float) -> Any:
    """A task that merges parts."""
    return ray.remote(num_cpus=num_cpus, max_retries=3)(_merge).remote(folder, parts)


def _merge(folder: PartFolder, parts: list[str]) -> None:
    folder.merge(parts)
