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
from emi_ray.schema import FAILURES_SCHEMA

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
            failures=lambda _: FAILURES_SCHEMA.empty_table(),
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


def test_what_was_finished_while_a_pass_ended_is_counted(monkeypatch):
    """Nodes join, and the pass ends while blocks of other actors are on their way."""
    cluster = FakeCluster(monkeypatch)
    failed = [f"c{index:03}" for index in (30, 31, 200)]

    def pump(dataset, blocks, is_left):
        clips = dataset[0]["clip_id"].to_pylist()
        for number, clip in enumerate(clips):
            cluster.done.update(clips[: number + 64])
            if number == 10 and len(cluster.nodes) == 1:
                cluster.nodes.append(Node("10.0.0.1", 8, 0))
                while not cluster.passes.watch.has_grown:
                    time.sleep(0.05)
                cluster.finish(clip, blocks.put)
                assert is_left.wait(20)
                return
            cluster.finish(clip, blocks.put)
        blocks.put(None)

    monkeypatch.setattr(passes, "_pump", pump)
    cluster.passes.failures = lambda _: pa.table(
        {"clip_id": failed, "stage": ["audio", "missing", "audio"], "error": ["bad", "no sound", "bad"]}
    )
    seen = []
    cluster.passes.on_progress = lambda *told: seen.append(told)
    assert cluster.blamed() == 0
    summary = cluster.passes.summary
    audio = summary.stages["audio"]
    assert summary.passes == 2
    assert summary.clips == NUM_CLIPS == seen[-1][0] == seen[-1][1]
    assert audio.ok + audio.failed + audio.missing == NUM_CLIPS
    assert (audio.failed, audio.missing, audio.reasons) == (1, 1, {"bad": 1, "no sound": 1})
    assert any("finished while a pass ended" in note for note in summary.notes)


def test_a_clip_is_counted_as_decoded_once_however_many_modalities_repeat_it(monkeypatch):
    cluster = FakeCluster(monkeypatch)
    cluster.passes.pipeline = FakePipeline({"audio": None, "text": None})
    done: set[tuple[str, str]] = set()

    def left(ids):
        todo = {
            f"todo_{name}": pa.array(
                [None if (clip, name) in done else 1 for clip in sorted(ids)], pa.int32()
            )
            for name in ("audio", "text")
        }
        return pa.table({"clip_id": sorted(ids), **todo})

    def pump(dataset, blocks, is_left):
        work, careful = dataset
        for clip in work["clip_id"].to_pylist() if careful else []:
            name = "text" if (clip, "audio") in done else "audio"
            done.add((clip, name))
            plain = {"reason": None, "seconds": 0.5, "media_s": 3.0, "actor": '["a", false, "n", 1, []]'}
            told = [[{"stage": stage, "status": "ok", **plain} for stage in ("decode", name)]]
            blocks.put(pa.table({"clip_id": [clip], "outcomes": pa.array(told, pa.list_(OUTCOME))}))
        blocks.put(None)

    monkeypatch.setattr(passes, "_pump", pump)
    monkeypatch.setattr(cluster.passes, "left", left)
    monkeypatch.setattr(cluster.passes, "plan", lambda _: dict.fromkeys(("decode", "audio", "text"), POOL))
    assert cluster.passes.run(left({"a", "b"})) == {}
    stages = cluster.passes.summary.stages
    assert {name: stage.ok for name, stage in stages.items()} == {"decode": 2, "audio": 2, "text": 2}
    assert (stages["decode"].media_s, stages["decode"].seconds) == (12.0, 2.0)
