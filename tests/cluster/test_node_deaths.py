"""Nodes that die, join, or all go: no clip is lost, none quarantined, none twice."""

import os
import subprocess
import sys
import threading

import pytest

from emi_ray.errors import EmiRayError
from emi_ray.extraction import extract, passes
from emi_ray.extraction.nodes import Node, NodeWatch
from emi_ray.failures import read_failures
from emi_ray.workspace import Workspace
from tests.cluster.nodes import add_node, await_parts, cluster, kill_node
from tests.cluster.test_deaths import held, new_workspace

WORDS = {f"w{index:03d}": f"word {index}" for index in range(176)}
SETTINGS = ["extractors.text.settings.seconds=0.05", "extraction.stages.text.batch_size=8"]


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


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_nodes_killed_one_after_the_other_cost_no_clip_and_a_new_one_takes_over(tmp_path, monkeypatch):
    monkeypatch.setattr(passes, "WORTH_NEW_POOLS", 20)
    workspace = new_workspace(tmp_path, WORDS, SETTINGS)
    with cluster([0, 0]) as nodes:
        first, second = nodes.worker_nodes
        thread, ended = extract_in_background(workspace, workspace.config())
        await_parts(workspace, 2)
        kill_node(first)
        await_parts(workspace, 5)
        kill_node(second)
        add_node(nodes, cpus=12)  # more than both had
        thread.join(timeout=240)
        assert not thread.is_alive()
    (summary,) = ended
    assert not isinstance(summary, Exception), summary
    assert [note for note in summary.notes if note.endswith("joined: pools were made anew for all nodes")]
    assert read_failures(workspace).num_rows == 0
    assert written_ids(workspace) == sorted(held(workspace))
    assert len(held(workspace)) == 200


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(
    "EMI_RAY_CLUSTER_TESTS" not in os.environ,
    reason="takes three minutes and, after another cluster in the same process, Ray's native code ends the process: "
    "run it alone with EMI_RAY_CLUSTER_TESTS=1",
)
def test_a_run_whose_nodes_are_all_gone_ends_after_the_stated_time_and_goes_on_later(tmp_path):
    workspace = new_workspace(tmp_path, WORDS, [*SETTINGS, "extraction.wait_for_nodes_s=2"])
    with cluster([0]) as nodes:
        thread, ended = extract_in_background(workspace, workspace.config())
        await_parts(workspace, 2)
        kill_node(nodes.worker_nodes.pop())
        thread.join(timeout=120)
        assert not thread.is_alive()
    assert isinstance(ended[0], EmiRayError)
    assert "All nodes of the cluster are gone" in str(ended[0])
    (record,) = [workspace.read_json(path) for path in workspace.files("extractions")]
    assert record["ended"].startswith("All nodes")
    again = [sys.executable, "-m", "emi_ray", "extract", "-w", workspace.root, "--modalities", "text"]
    done = subprocess.run(again, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
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
