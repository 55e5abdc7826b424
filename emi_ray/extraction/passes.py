"""Repeat passes over the work until every clip has an outcome, or some clips cannot get one.

Within a pass, Ray repeats the tasks of a worker or node that dies, and each extractor identifies the clip that
kills its process (``runner.py``). Clips that a pass still loses are processed again:

- If a node died, the clips are not to blame. The same pass is repeated, at most ``MAX_NODE_LOSSES`` times.
- If no node died, the next pass is a *careful* one: one clip per task, one modality per pipeline, each extractor in
  a child process. A clip that is lost in ``CAREFUL_PASSES`` such passes on living nodes is quarantined in that
  modality.
- If nodes joined and enough clips are left, the pass ends, and the next one has pools for all nodes.
- If nothing happens in a careful pass, no clip is to blame, because one that hangs is ended by its time limit. The
  actors wait for GPUs or CPUs that others use, and the run ends with that reason.

The store is the only record of finished work, so a pass may end at any moment.
"""

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc
from ray.data import Dataset
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import GetTimeoutError, RayError

from emi_ray.errors import EmiRayError
from emi_ray.events import tell
from emi_ray.extraction.maintenance import PartMaintenance
from emi_ray.extraction.pending import todo_column
from emi_ray.extraction.pipeline import Pipeline, configure_ray_data, longest_batch_s
from emi_ray.extraction.pools import Pool
from emi_ray.extraction.stage import stop_if_broken
from emi_ray.extraction.summary import ExtractionSummary
from emi_ray.extraction.unseen import Failures, add_unseen
from emi_ray.runtime.node_watch import MAX_NODE_LOSSES, NodeWatch
from emi_ray.runtime.ray_errors import in_a_sentence
from emi_ray.schema import Modality

_LOG = logging.getLogger(__name__)

CAREFUL_PASSES = 2
START_S = 300
"""Time limit for the processes of all GPUs to start. No clip is processed until all have started."""

LEAVE_S = 30.0
"""Time that a pass which is ended early gets to finish its current block."""

TOLD_AFTER_S = 60.0
"""Time without a first clip after which a pass reports that it is waiting."""

WORTH_NEW_POOLS = 500
"""Minimum number of clips left for which nodes that join are used: new pools take seconds and load models again."""

Progress = Callable[[int, int], None]
"""Called with (number of clips done, total number of clips)."""

Left = Callable[[set[str]], pa.Table]
"""Returns the work that is left for the given clip ids, computed from the store."""

Planner = Callable[[Pipeline], Mapping[str, Pool]]
"""Returns pools of a pipeline for the nodes that are alive now."""


@dataclass
class Passes:
    """The passes of one run.

    Attributes:
        left: returns the work that is left for clips that a pass has lost.
        failures: returns the stored failures of a modality.
        plan: returns pools for the present nodes.
    """

    pipeline: Pipeline
    summary: ExtractionSummary
    maintenance: PartMaintenance
    left: Left
    failures: Failures
    plan: Planner
    on_progress: Progress
    watch: NodeWatch = field(default_factory=NodeWatch)
    _losses: int = 0
    _told: int = 0
    _may_wait: bool = True
    _is_late: bool = False
    _decoded: set[str] = field(default_factory=set)
    """Ids of clips that a careful pass has decoded; each modality decodes them again."""

    def run(self, work: pa.Table) -> dict[Modality, pa.Table]:
        """Stream ``work`` until nothing is left. Returns the work that no pass could do, by modality.

        Raises:
            EmiRayError: a stage cannot work, nodes died in too many passes, or all nodes were gone for too long.
        """
        while work.num_rows:
            self._watch_anew()
            self.summary.pools = self.plan(self.pipeline)
            lost = self._stream(self.pipeline, work, self.summary.pools)
            self._note_deaths()
            work = self._unfinished(work, lost)
            if work.num_rows and not self._has_other_cause():
                return self._carefully(set(work["clip_id"].to_pylist()))
        return {}

    def _unfinished(self, work: pa.Table, lost: set[str], are_new: bool = True) -> pa.Table:
        """Return the work that is left of a pass, and count finished clips whose outcomes did not arrive."""
        if not lost:
            return work.slice(0, 0)
        left = self.left(lost)
        before = work.filter(pc.is_in(work["clip_id"], pa.array(sorted(lost))))
        add_unseen(self.summary, before, left, self.failures, are_new)
        return left

    def _watch_anew(self) -> None:
        self.watch, self._told = NodeWatch(), 0

    def _has_other_cause(self) -> bool:
        """Return whether the last pass may have lost clips although nothing is wrong with them."""
        began_late, self._is_late = self._is_late, False
        # The nodes are asked last, because that may take half a minute.
        return began_late or self.watch.has_grown or self._is_excused()

    def _carefully(self, lost: set[str]) -> dict[Modality, pa.Table]:
        """Make the careful passes, one modality after another. Returns the work that they lose too."""
        self.summary.clips += len(lost)
        guilty = {}
        for modality, spec in self.pipeline.specs.items():
            alone = replace(self.pipeline, specs={modality: spec})
            pools = {name: pool.one_by_one() for name, pool in self.plan(alone).items()}
            deaths, num_excused, work = 0, 0, _of(modality, self.left(lost))
            while work.num_rows and deaths < CAREFUL_PASSES:
                self._watch_anew()
                rest = self._stream(alone, work, pools, careful=True)
                work = _of(modality, self._unfinished(work, rest, are_new=False))
                # A pass in which nodes died or joined, or that began late, does not count against the clips. The
                # number of such passes is limited, so that a clip that kills its process is not repeated for ever.
                if work.num_rows and self._has_other_cause() and num_excused < MAX_NODE_LOSSES:
                    num_excused += 1
                else:
                    deaths += bool(work.num_rows)
            if work.num_rows:
                guilty[modality] = work
        return guilty

    def _note_deaths(self) -> None:
        self.watch.update()
        for node in self.watch.died[self._told :]:
            self.summary.nodes_lost.append(node)
            tell("node_lost", node=node)
        self._told = len(self.watch.died)

    def _is_excused(self) -> bool:
        """Return whether a node has died, so that the clips are not to blame for the loss."""
        # A worker's death is noticed before that of its node, so the verdict waits for the node.
        self.watch.await_fate()
        self._note_deaths()
        if not self.watch.died:
            return False
        self._losses += 1
        if self._losses > MAX_NODE_LOSSES:
            raise EmiRayError(
                f"Nodes died in {self._losses} passes ({', '.join(self.summary.nodes_lost[-5:])} were the last): "
                f"some clips are not done. What is done is kept; repeat the command to continue."
            )
        return True

    def _stream(
        self, pipeline: Pipeline, work: pa.Table, pools: Mapping[str, Pool], careful: bool = False
    ) -> set[str]:
        """Stream ``work`` through the pipeline. Returns the ids of the clips without an outcome."""
        # Every clip counts as lost until its outcome arrives.
        lost = set(work["clip_id"].to_pylist())
        if not lost:
            return lost
        self.summary.passes += 1
        tell("pass_began", number=self.summary.passes, clips=len(lost), careful=careful)
        total = self.summary.clips + (0 if careful else len(lost))
        uses_gpus = any(pool.num_gpus for pool in pools.values())
        are_many = any(pool.num_gpus and pool.max_actors > 1 for pool in pools.values())
        wait_s = START_S if are_many and self._may_wait else -1
        configure_ray_data(pools, longest_batch_s(pipeline, pools), wait_s)
        started = time.monotonic()
        try:
            for table in self._blocks_of(pipeline.build(work, pools, careful), uses_gpus, careful):
                stop_if_broken(table)
                told = self.summary.add_table(table, are_new=not careful, decoded=self._decoded)
                lost.difference_update(told)
                self._decoded.update(told if careful else ())
                self.on_progress(self.summary.clips, total)
                if self.watch.has_grown and len(lost) >= WORTH_NEW_POOLS and not careful:
                    self.summary.note(
                        f"{', '.join(self.watch.joined)} joined: new pools were created for all nodes"
                    )
                    return lost
        finally:
            self.summary.add_pass(pools, time.monotonic() - started)
        if self.watch.has_grown:
            why = "clips are processed one by one" if careful else "few clips were left"
            self.summary.note(
                f"{', '.join(self.watch.joined)} joined late: the pools were not changed, because {why}"
            )
        return lost

    def _blocks_of(self, dataset: Dataset, writes_raw: bool, careful: bool) -> Iterator[pa.Table]:
        """Yield the blocks of a dataset while watching the nodes and, with ``writes_raw``, merging raw parts.

        Ends early when Ray reports that there is no progress.

        Raises:
            EmiRayError: there is no progress in a careful pass.
        """
        blocks: queue.SimpleQueue[pa.Table | Exception | None] = queue.SimpleQueue()
        is_left = threading.Event()
        # Reading the blocks of a dataset cannot be interrupted, so a thread does it while this one watches the nodes.
        pump = threading.Thread(target=_pump, args=(dataset, blocks, is_left), daemon=True)
        pump.start()
        report_at = math.inf if careful else time.monotonic() + TOLD_AFTER_S
        try:
            while True:
                self.watch.update()
                self._give_up_without_nodes()
                if writes_raw:
                    self.maintenance.look()
                try:
                    block = blocks.get(timeout=1.0)
                except queue.Empty:
                    if time.monotonic() > report_at:
                        _LOG.warning(_WAITS, TOLD_AFTER_S)
                        report_at = math.inf
                    continue
                report_at = math.inf
                if isinstance(block, ExecutionTimeoutError) and careful:
                    raise EmiRayError(_NO_PROGRESS) from block
                # The clips without an outcome are processed in the next pass.
                if block is None or isinstance(block, ExecutionTimeoutError):
                    return
                if isinstance(block, GetTimeoutError) and self._may_wait:
                    self._may_wait, self._is_late = False, True
                    self.summary.note(
                        f"not every GPU had its process after {START_S} s: the others started without them"
                    )
                    return
                if isinstance(block, RayError):
                    raise in_a_sentence(block)
                if isinstance(block, Exception):
                    raise block
                yield block
        finally:
            is_left.set()
            if self.watch.now:  # without nodes there is nothing to wait for
                pump.join(
                    timeout=LEAVE_S
                )  # then its actors are killed, so that none writes during the next pass

    def _give_up_without_nodes(self) -> None:
        patience = self.pipeline.config.extraction.wait_for_nodes_s
        if self.watch.empty_s > patience:
            raise EmiRayError(
                f"All nodes of the cluster are gone ({', '.join(self.watch.died)}), and none came within "
                f"{patience:g} s (extraction.wait_for_nodes_s). What is done is kept; repeat the command to continue."
            )


_WAITS = (
    "No clip has been finished in the first %g s: the first clips take that long, models are still loading, or other "
    "jobs use the GPUs or CPUs (`ray status`)."
)
_NO_PROGRESS = (
    "No clip has been finished for a long time, although each was processed alone and may not take that long: other "
    "jobs probably use the GPUs or CPUs (`ray status`). What is done is kept; repeat the command to continue."
)


def _of(modality: Modality, work: pa.Table) -> pa.Table:
    """Return the work of one modality."""
    return work.filter(work[todo_column(modality)].is_valid())


def _pump(
    dataset: Dataset, blocks: "queue.SimpleQueue[pa.Table | Exception | None]", is_left: threading.Event
) -> None:
    """Put the blocks of a dataset into the queue, then None or the error that ended it; stop when ``is_left`` is
    set.
    """
    try:
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            assert isinstance(batch, pa.Table)
            blocks.put(batch)
            # The reader has left; iterating further would keep the pipeline running beside the next pass.
            if is_left.is_set():
                return
        blocks.put(None)
    except Exception as error:  # noqa: BLE001 - raised again by the reader of the queue
        blocks.put(error)
