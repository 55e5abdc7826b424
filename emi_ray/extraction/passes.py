"""Passes over the work, until every clip has an outcome or it is clear that some cannot get one now.

Within a pass, Ray repeats what a dying worker or node had in hand, and each extractor finds the clip that ends its
process (``runner.py``). What a pass loses all the same is done again:

- A node died: that says nothing about a clip. The same pass again, at most ``MAX_NODE_LOSSES`` times.
- No node died: the pass is made once more *carefully*: one clip a task, one modality a pipeline, each extractor in a
  child process. A clip that is lost by ``CAREFUL_PASSES`` of them on living nodes is quarantined, in that modality.
- Nodes joined, and there is enough left: the pass ends, and the next has pools for all nodes.

The store is what is done, so that a pass may end at any moment.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import pyarrow as pa
from ray.data import Dataset
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import GetTimeoutError, RayError

from emi_ray.errors import EmiRayError
from emi_ray.events import tell
from emi_ray.extraction.nodes import NodeWatch
from emi_ray.extraction.pipeline import BATCHES_AT_ONCE, Pipeline, configure_ray_data, limits_of
from emi_ray.extraction.pools import Pool
from emi_ray.extraction.summary import ExtractionSummary
from emi_ray.extraction.upkeep import Upkeep
from emi_ray.extraction.work import todo_column
from emi_ray.runtime.results import in_a_sentence
from emi_ray.schema import Modality

MAX_NODE_LOSSES = 10
CAREFUL_PASSES = 2
START_S = 300
"""For the processes of all GPUs to be up, before the first clip goes to any."""

LEAVE_S = 30.0
"""For a pass that is left early to give its next block."""

WORTH_NEW_POOLS = 500
"""Clips that must be left for nodes that joined to be used: starting anew costs seconds, and loads models again."""

Progress = Callable[[int, int], None]
"""Called with (clips done, clips in all)."""

Left = Callable[[set[str]], pa.Table]
"""What is still to do of these clips, read from the store."""

Planner = Callable[[], Mapping[str, Pool]]
"""Pools for the nodes that are up now."""


@dataclass
class Passes:
    """The passes of one run."""

    pipeline: Pipeline
    summary: ExtractionSummary
    upkeep: Upkeep
    left: Left
    plan: Planner
    on_progress: Progress
    watch: NodeWatch = field(default_factory=NodeWatch)
    _losses: int = 0
    _told: int = 0
    _may_wait: bool = True
    _is_late: bool = False

    def run(self, work: pa.Table) -> dict[Modality, pa.Table]:
        """Stream ``work`` until nothing is left; returns what no pass could do, by the modality that lost it.

        Raises:
            EmiRayError: a stage cannot work, or nodes died or stayed away too often to go on.
        """
        while work.num_rows:
            self._watch_anew()
            self.summary.pools = self.plan()
            lost = self._stream(self.pipeline, work, self.summary.pools)
            self._note_deaths()
            work = self.left(lost) if lost else work.slice(0, 0)
            if work.num_rows and not (self.watch.has_grown or self._began_late() or self._is_excused()):
                return self._carefully(lost)
        return {}

    def _watch_anew(self) -> None:
        self.watch, self._told = NodeWatch(), 0

    def _began_late(self) -> bool:
        """Whether the pass ended only because actors did not come up in time; asked once."""
        began_late, self._is_late = self._is_late, False
        return began_late

    def _carefully(self, lost: set[str]) -> dict[Modality, pa.Table]:
        """The passes of single clips, one modality after another; returns what these lose too."""
        self.summary.clips += len(lost)
        guilty = {}
        for modality, spec in self.pipeline.specs.items():
            alone = replace(self.pipeline, specs={modality: spec})
            pools = {name: pool.one_by_one() for name, pool in self.plan().items() if name in alone.stages}
            deaths, rest = 0, lost
            while rest and deaths < CAREFUL_PASSES:
                self._watch_anew()
                rest = self._stream(alone, self._left_of(modality, rest), pools, careful=True)
                deaths += bool(rest) and not self._is_excused()
            if rest:
                guilty[modality] = self._left_of(modality, rest)
        return guilty

    def _left_of(self, modality: Modality, ids: set[str]) -> pa.Table:
        left = self.left(ids)
        return left.filter(left[todo_column(modality)].is_valid())

    def _note_deaths(self) -> None:
        self.watch.update()
        for node in self.watch.died[self._told :]:
            self.summary.nodes_lost.append(node)
            tell("node_lost", node=node)
        self._told = len(self.watch.died)

    def _is_excused(self) -> bool:
        """Whether a node died, so that what the pass lost says nothing about clips."""
        self.watch.await_fate()
        self._note_deaths()
        if not self.watch.died:
            return False
        self._losses += 1
        if self._losses > MAX_NODE_LOSSES:
            raise EmiRayError(
                f"Nodes died in {self._losses} passes ({', '.join(self.summary.nodes_lost[-5:])} were the last): "
                f"some clips are left undone. What is done is kept; the same command goes on."
            )
        return True

    def _stream(
        self, pipeline: Pipeline, work: pa.Table, pools: Mapping[str, Pool], careful: bool = False
    ) -> set[str]:
        """Stream ``work`` through the pipeline; returns the clips without an outcome."""
        lost = set(work["clip_id"].to_pylist())
        if not lost:
            return lost
        self.summary.passes += 1
        tell("pass_began", number=self.summary.passes, clips=len(lost), careful=careful)
        total = self.summary.clips + (0 if careful else len(lost))
        settings = pipeline.config.extraction
        # A clip that hangs is decoded up to four times: whole, then sound, pictures and the rest apart.
        uses_gpus = any(pool.num_gpus for pool in pools.values())
        of_a_batch = limits_of(settings, BATCHES_AT_ONCE if uses_gpus else 1)
        longest_s = 4 * settings.time_limit_s * pools["decode"].batch_size + 2 * of_a_batch.seconds
        are_many = any(pool.num_gpus and pool.max_actors > 1 for pool in pools.values())
        configure_ray_data(longest_s, START_S if are_many and self._may_wait else -1)
        for table in self._blocks_of(pipeline.build(work, pools, careful)):
            _stop_if_broken(table)
            if uses_gpus:
                self.upkeep.look()
            lost.difference_update(self.summary.add_table(table, are_new=not careful))
            self.on_progress(self.summary.clips, total)
            if self.watch.has_grown and len(lost) >= WORTH_NEW_POOLS:
                self.summary.note(
                    f"{', '.join(self.watch.joined)} joined: pools were made anew for all nodes"
                )
                return lost
        if self.watch.has_grown:
            self.summary.note(
                f"{', '.join(self.watch.joined)} joined late: pools stayed as they were, since too little was left"
            )
        return lost

    def _blocks_of(self, dataset: Dataset) -> Iterator[pa.Table]:
        """The dataset's blocks as they come, while nodes are watched; ends early when Ray shows no progress."""
        blocks: queue.SimpleQueue[pa.Table | Exception | None] = queue.SimpleQueue()
        is_left = threading.Event()
        pump = threading.Thread(target=_pump, args=(dataset, blocks, is_left), daemon=True)
        pump.start()
        try:
            while True:
                self.watch.update()
                self._give_up_without_nodes()
                try:
                    block = blocks.get(timeout=1.0)
                except queue.Empty:
                    continue
                if block is None or isinstance(block, ExecutionTimeoutError):
                    return
                if isinstance(block, GetTimeoutError) and self._may_wait:
                    self._may_wait, self._is_late = False, True
                    self.summary.note(
                        f"not every GPU had its process after {START_S} s: the others began alone"
                    )
                    return
                if isinstance(block, RayError):
                    raise in_a_sentence(block)
                if isinstance(block, Exception):
                    raise block
                yield block
        finally:
            is_left.set()
            if self.watch.now:  # without nodes there is nobody to wait for
                pump.join(timeout=LEAVE_S)  # its actors are killed then: none writes into the next pass

    def _give_up_without_nodes(self) -> None:
        patience = self.pipeline.config.extraction.wait_for_nodes_s
        if self.watch.empty_s > patience:
            raise EmiRayError(
                f"All nodes of the cluster are gone ({', '.join(self.watch.died)}), and none came within "
                f"{patience:g} s (extraction.wait_for_nodes_s). What is done is kept; the same command goes on."
            )


def _pump(
    dataset: Dataset, blocks: "queue.SimpleQueue[pa.Table | Exception | None]", is_left: threading.Event
) -> None:
    """Pass a dataset's blocks on, then None or the error that ended it; stop when nobody listens any more."""
    try:
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            assert isinstance(batch, pa.Table)
            blocks.put(batch)
            if is_left.is_set():
                return
        blocks.put(None)
    except Exception as error:  # noqa: BLE001 - raised again where the blocks are taken
        blocks.put(error)


def _stop_if_broken(table: pa.Table) -> None:
    outcomes = table["outcomes"].combine_chunks().flatten()
    index = outcomes.field("status").index("broken").as_py()
    if index >= 0:
        outcome = outcomes[index].as_py()
        raise EmiRayError(
            f"The {outcome['stage']} stage cannot work: {outcome['reason']} "
            f"What is done is kept; mend the cause and run the same command again."
        )
