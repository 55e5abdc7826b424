"""Nodes that die or join, and the loss of all nodes: no clip is lost, quarantined or stored twice."""

import threading
import time

import pytest

from emi_ray.errors import EmiRayError
from emi_ray.extraction import passes
from emi_ray.extraction.run import extract
from emi_ray.runtime.node_watch import Node, NodeWatch
from emi_ray.store.failures import read_failures
from emi_ray.workspace import Workspace
from tests.cluster.nodes import add_node, await_parts, cluster, kill_node
from tests.cluster.test_deaths import held, new_workspace

WORDS = {f"w{index:03d}": f"word {index}" for index in range(176)}
SETTINGS = ["extractors.text.settings.seconds=0.35", "extraction.stages.text.batch_size=8"]


def extract_in_background(workspace: Workspace, config) -> tuple[threading.Thread, list]:
    ended: list = []

    def run() -> None:
        try:
            ended.append(extract(workspace, config, ["text"]))
        except EmiRayError as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, ended


def written_ids(workspace: Workspace) -> list[str]:
    parts = [path for path in workspace.files("features", recursive=True) if path.endswith(".parquet")]
    return sorted(clip_id for part in parts for clip_id in workspace.read_table(part)["clip_id"].to_pylist())


@pytest.mark.long
@pytest.mark.timeout(400)
def test_two_nodes_killed_40_s_apart_cost_no_clip_and_a_new_one_takes_over(tmp_path, monkeypatch):
    monkeypatch.setattr(passes, "WORTH_NEW_POOLS", 20)
    workspace = new_workspace(tmp_path, WORDS, SETTINGS)
    with cluster([0, 0]) as nodes:
        first, second = nodes.worker_nodes
        thread, ended = extract_in_background(workspace, workspace.config())
        await_parts(workspace, 2)
        kill_node(first)
        time.sleep(40)
        assert thread.is_alive()
        kill_node(second)
        add_node(nodes, cpus=12)  # more than both had
        thread.join(timeout=240)
        assert not thread.is_alive()
    (summary,) = ended
    assert not isinstance(summary, Exception), summary
    assert [note for note in summary.notes if note.endswith("joined: new pools were created for all nodes")]
    assert read_failures(workspace).num_rows == 0
    assert written_ids(workspace) == sorted(held(workspace))
    assert len(held(workspace)) == 200


def test_a_watch_knows_who_died_who_joined_and_how_long_nobody_is_left():
    now, seconds = {"a": Node("10.0.0.1", 4, 0), "b": Node("10.0.0.2", 4, 1)}, 0.0
    watch = NodeWatch(look=lambda: dict(now), clock=lambda: seconds)
    assert not watch.has_grown
    now, seconds = {"b": Node("10.0.0.2", 4, 1), "c": Node("10.0.0.3", 8, 1)}, 5.0
    watch.update()
    assert (watch.died, watch.joined, watch.has_grown) == (["10.0.0.1"], ["10.0.0.3"], True)
    now, seconds = {}, 10.0
    watch.update()
    seconds = 17.0
    assert watch.empty_s == 7
    assert not watch.has_grown
