"""Careful passes blame clips only for losses that nothing else explains."""

import time
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pytest
from ray.exceptions import GetTimeoutError

from emi_ray.config import WorkspaceConfig
from emi_ray.extraction import passes
from emi_ray.extraction.passes import Passes
from emi_ray.extraction.pools import Pool
from emi_ray.extraction.stage import OUTCOME
from emi_ray.extraction.summary import ExtractionSummary
from emi_ray.runtime.node_watch import Node, NodeWatch

NUM_CLIPS = 700
POOL = Pool(batch_size=8, max_actors=1, num_cpus=0.25, num_gpus=0.0, threads=1)


@dataclass
class FakePipeline:
    specs: dict[str, Any]
    config: WorkspaceConfig = field(default_factory=WorkspaceConfig)
    reads_media: bool = False

    def build(self, work: pa.Table, pools: object, careful: bool) -> tuple[pa.Table, bool]:
        return work, careful


class FakeCluster:
    """Nodes that may join, and a pipeline whose first pass loses every clip."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.nodes = [Node("10.0.0.0", 8, 0)]
        self.done: set[str] = set()
        self.num_careful = 0
        cluster = self

        class Watch(NodeWatch):
            def __init__(self) -> None:
                super().__init__(look=lambda: {node.address: node for node in cluster.nodes})

            def await_fate(self) -> None:
                self.update()  # without the pause: no node dies

        monkeypatch.setattr(passes, "NodeWatch", Watch)
        monkeypatch.setattr(passes, "configure_ray_data", lambda *_: None)
        monkeypatch.setattr(passes, "_pump", self._pump)
        self.passes = Passes(
            FakePipeline({"audio": None}),
            ExtractionSummary(),
            maintenance=None,
            left=self._left,
            plan=lambda _: {"decode": POOL, "audio": POOL},
            on_progress=lambda *_: None,
            watch=Watch(),
        )

    def blamed(self) -> int:
        guilty = self.passes.run(self._left({f"c{index:03}" for index in range(NUM_CLIPS)}))
        return sum(table.num_rows for table in guilty.values())

    def careful_pass(self, clips: list[str], put, is_left) -> None:
        for clip in clips:
            self.finish(clip, put)

    def finish(self, clip: str, put) -> None:
        self.done.add(clip)
        outcome = {"stage": "audio", "status": "ok", "reason": None, "seconds": 0.1, "media_s": 1.0}
        told = [[{**outcome, "actor": '["a", false, "n", 1, []]'}]]
        put(pa.table({"clip_id": [clip], "outcomes": pa.array(told, pa.list_(OUTCOME))}))

    def _pump(self, dataset, blocks, is_left) -> None:
        work, careful = dataset
        if careful:
            self.num_careful += 1
            self.careful_pass(work["clip_id"].to_pylist(), blocks.put, is_left)
        blocks.put(None)

    def _left(self, ids: set[str]) -> pa.Table:
        left = sorted(ids - self.done)
        return pa.table({"clip_id": left, "todo_audio": pa.array([1] * len(left), pa.int32())})


def test_nodes_that_join_during_careful_passes_do_not_count_against_clips(monkeypatch):
    cluster = FakeCluster(monkeypatch)

    def nodes_join(clips, put, is_left):
        for index, clip in enumerate(clips):
            if index == 5:
                cluster.nodes.append(Node(f"10.0.0.{len(cluster.nodes)}", 8, 0))
                time.sleep(1.2)  # the nodes are looked up once a second
            if is_left.is_set():
                return
            cluster.finish(clip, put)

    cluster.careful_pass = nodes_join
    assert cluster.blamed() == 0
    assert len(cluster.done) == NUM_CLIPS


def test_a_careful_pass_that_begins_late_does_not_count_against_clips(monkeypatch):
    cluster = FakeCluster(monkeypatch)

    def late_then_lossy(clips, put, is_left):
        if cluster.num_careful == 1:
            put(GetTimeoutError("actors did not start"))
            return
        for clip in clips:
            if cluster.num_careful == 2 and clip == "c010":
                return  # a loss, once
            cluster.finish(clip, put)

    cluster.careful_pass = late_then_lossy
    assert cluster.blamed() == 0


def test_clips_that_are_lost_in_two_careful_passes_are_blamed(monkeypatch):
    cluster = FakeCluster(monkeypatch)

    def lossy(clips, put, is_left):
        for clip in clips:
            if clip not in ("c010", "c020"):
                cluster.finish(clip, put)

    cluster.careful_pass = lossy
    assert cluster.blamed() == 2
    assert cluster.num_careful == 2


def test_a_clip_that_is_lost_in_every_pass_is_blamed_although_nodes_join_in_each(monkeypatch):
    monkeypatch.setattr(passes, "MAX_NODE_LOSSES", 1)
    cluster = FakeCluster(monkeypatch)

    def nodes_join(clips, put, is_left):
        cluster.nodes.append(Node(f"10.0.0.{len(cluster.nodes)}", 8, 0))
        time.sleep(1.2)
        for clip in clips:
            if clip != "c010":
                cluster.finish(clip, put)

    cluster.careful_pass = nodes_join
    assert cluster.blamed() == 1
    assert cluster.num_careful == 3
