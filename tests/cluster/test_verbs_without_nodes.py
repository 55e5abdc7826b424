"""Commands on a cluster whose nodes or head are killed end with one sentence; repeated, they finish."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import optuna
import psutil
import pytest
from planted import planted_workspace

from emi_ray.store.failures import read_failures
from emi_ray.tuning.storage import journal_path, open_storage
from emi_ray.tuning.study import kind_of
from emi_ray.workspace import Workspace
from tests.cluster.test_deaths import new_workspace

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
SPACE = "parameters: {fusion.dropout: {uniform: [0.1, 0.7]}, fusion.hidden: {choice: [8, 16, 32]}}"
SMALL = [f"encoders.{modality}.hidden=16" for modality in ("text", "audio", "vision")]
SMALL += ["fusion.hidden=16", "--any-features"]
SEEDS = range(40, 44)
WORDS = {f"w{index:03d}": f"word {index}" for index in range(176)}


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    return {**kept, "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}


CLUSTER = """
import sys, time
from ray.cluster_utils import Cluster
from tests.cluster.nodes import FAST_DEATH, add_node
head = {"num_cpus": int(sys.argv[1]), "include_dashboard": False, "_system_config": FAST_DEATH}
cluster = Cluster(initialize_head=True, head_node_args={**head, "object_store_memory": 200 * 2**20})
nodes = [add_node(cluster, cpus=int(sys.argv[3])) for _ in range(int(sys.argv[2]))]
print(cluster.address, *(node.all_processes["raylet"][0].process.pid for node in nodes), flush=True)
time.sleep(3600)
"""


@contextmanager
def cluster(head_cpus: int, num_nodes: int, cpus: int = 4) -> Iterator[tuple[str, list[int]]]:
    """A cluster in a process of its own: its address, and its nodes' raylets. It dies at the end."""
    command = [sys.executable, "-c", CLUSTER, str(head_cpus), str(num_nodes), str(cpus)]
    process = subprocess.Popen(command, env=environment(), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address, *raylets = process.stdout.readline().split()
        yield address, [int(pid) for pid in raylets]
    finally:
        kill(process.pid)
        process.wait()


def kill(pid: int) -> None:
    """SIGKILL a process and all that it started, as a machine goes."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in [*process.children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                each.kill()


@dataclass
class Driver:
    """A command at work, and where its output goes."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def end(self, timeout_s: float = 300) -> tuple[int, str]:
        """How the command ended, and what it printed, on one line."""
        code = self.process.wait(timeout_s)
        return code, " ".join(self.log.read_text().split())


def start(address: str, workspace: Workspace, *command: str) -> Driver:
    line = [sys.executable, "-m", "emi_ray", *command, "-w", workspace.root, "--address", address]
    log = Path(f"{workspace.root}.log")
    with log.open("wb") as output:
        return Driver(subprocess.Popen(line, env=environment(), cwd=ROOT, stdout=output, stderr=output), log)


def trials_of(workspace: Workspace) -> list[optuna.trial.FrozenTrial]:
    if not journal_path(workspace, "s").exists():
        return []
    storage = open_storage(workspace, "s", None)
    return [trial for each in storage.get_all_studies() for trial in storage.get_all_trials(each._study_id)]


def kinds_of(workspace: Workspace) -> list[str]:
    return [kind_of(trial) for trial in trials_of(workspace)]


def num_finished(workspace: Workspace) -> int:
    return sum(kind in ("complete", "pruned") for kind in kinds_of(workspace))


def await_that(condition, driver: Driver) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert driver.process.poll() is None, driver.end()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def tune(space: Path, trials: int) -> list[str]:
    options = ["--space", str(space), "--study", "s", "--seeds", "0", "--folds", "1"]
    return ["tune", "f1", *SMALL[:-1], "training.epochs=10", *options, "--trials", str(trials)]


def test_a_node_that_dies_while_tuning_costs_no_trial(tmp_path):
    workspace = planted_workspace(tmp_path / "w", num_train=48, num_val=24)
    (tmp_path / "space.yaml").write_text(SPACE)
    with cluster(0, 2) as (address, raylets):
        driver = start(address, workspace, *tune(tmp_path / "space.yaml", 8))
        await_that(lambda: num_finished(workspace) >= 2, driver)
        kill(raylets[0])
        code, printed = driver.end()
    assert code == 0, printed
    kinds = kinds_of(workspace)
    assert sum(kind in ("complete", "pruned") for kind in kinds) == 8
    assert set(kinds) <= {"complete", "pruned", "lost"}, "what was lost is done again, and nothing failed"


def has_worker(raylet: int) -> bool:
    """Whether a worker of Ray Train runs on a node."""
    with suppress(psutil.NoSuchProcess):
        family = psutil.Process(raylet).children(recursive=True)
        return any("RayTrainWorker" in process.name() for process in family)
    return False


def test_a_node_that_dies_under_one_of_two_workers_changes_nothing(tmp_path):
    runs = planted_workspace(tmp_path / "runs", num_train=48, num_val=24)
    calm = planted_workspace(tmp_path / "calm", num_train=48, num_val=24)
    train = [
        "train",
        "text",
        "encoders.text.hidden=16",
        "training.epochs=300",
        "--workers",
        "2",
        "--any-features",
    ]
    with cluster(0, 3, cpus=1) as (
        address,
        raylets,
    ):  # one worker a node, and a node for the one that is lost
        driver = start(address, runs, *train)
        await_that(lambda: sum(map(has_worker, raylets)) == 2, driver)
        time.sleep(6)
        assert driver.process.poll() is None
        kill(next(raylet for raylet in raylets if has_worker(raylet)))
        code, printed = driver.end()
    assert code == 0, printed
    code, printed = start("local", calm, *train).end()
    assert code == 0, printed
    file = "runs/text/42/model.safetensors"
    assert runs.read_bytes(file) == calm.read_bytes(file)
    assert not runs.files("runs/text/42/ray", recursive=True)


def written_ids(workspace: Workspace) -> list[str]:
    parts = [path for path in workspace.files("features", recursive=True) if path.endswith(".parquet")]
    return sorted(clip_id for part in parts for clip_id in workspace.read_table(part)["clip_id"].to_pylist())


def test_verbs_whose_head_dies_say_so_and_finish_under_a_new_one(tmp_path):
    texts = new_workspace(tmp_path / "texts", WORDS, ["extractors.text.settings.seconds=0.3"])
    runs = planted_workspace(tmp_path / "runs", num_train=48, num_val=24)
    calm = planted_workspace(tmp_path / "calm", num_train=48, num_val=24)
    study = planted_workspace(tmp_path / "study", num_train=48, num_val=24)
    (tmp_path / "space.yaml").write_text(SPACE)
    seeds = [f"--seed={seed}" for seed in SEEDS]
    train = ["train", "f1", *SMALL, "training.epochs=20", *seeds]
    verbs = {
        "extract": (texts, ["extract", "--modalities", "text"]),
        "train": (runs, train),
        "tune": (study, tune(tmp_path / "space.yaml", 200)),
    }
    with cluster(8, 0) as (address, _):
        drivers = {name: start(address, *verbs[name][:1], *verbs[name][1]) for name in ("tune", "train")}
        await_that(lambda: bool(trials_of(study)), drivers["tune"])
        drivers["extract"] = start(address, texts, *verbs["extract"][1])
        await_that(lambda: len(written_ids(texts)) > 0, drivers["extract"])
        at_work = {name: driver for name, driver in drivers.items() if driver.process.poll() is None}
    assert {"tune", "extract"} <= at_work.keys()  # a training of small runs may be over
    undisturbed = start("local", calm, *train)
    for name, driver in at_work.items():
        code, printed = driver.end()
        assert code == 1, (name, printed)
        assert f"Failed: The head of the Ray cluster at {address} no longer answers" in printed, (
            name,
            printed,
        )
        assert "Traceback" not in printed, (name, printed)
        assert "raylet" not in printed, (name, printed)
    before = num_finished(study)
    assert before < 200
    with cluster(8, 0) as (address, _):
        verbs["tune"] = (study, tune(tmp_path / "space.yaml", before + 2))
        drivers = {name: start(address, workspace, *line) for name, (workspace, line) in verbs.items()}
        drivers["calm"] = undisturbed
        for name, driver in drivers.items():
            code, printed = driver.end()
            assert code == 0, (name, printed)
    assert written_ids(texts) == sorted({*written_ids(texts)})
    assert len(written_ids(texts)) == 200
    assert num_finished(study) == before + 2
    assert "running" not in kinds_of(study)
    for seed in SEEDS:
        folder = f"runs/f1/{seed}/model.safetensors"
        assert runs.read_bytes(folder) == calm.read_bytes(folder)
    assert read_failures(texts).num_rows == 0


def test_a_run_whose_nodes_are_all_gone_ends_after_the_stated_time_and_goes_on_later(tmp_path):
    settings = ["extractors.text.settings.seconds=0.1", "extraction.wait_for_nodes_s=2"]
    workspace = new_workspace(tmp_path, WORDS, settings)
    command = ["extract", "--modalities", "text"]
    with cluster(0, 1) as (address, (raylet,)):
        driver = start(address, workspace, *command)
        await_that(lambda: len(written_ids(workspace)) > 0, driver)
        kill(raylet)
        code, printed = driver.end()
        assert (code, "All nodes of the cluster are gone" in printed) == (1, True), printed
        assert "Traceback" not in printed
        assert "raylet" not in printed
    (record,) = [workspace.read_json(path) for path in workspace.files("extractions")]
    assert record["ended"].startswith("All nodes")
    assert start("local", workspace, *command).end()[0] == 0
    assert len(written_ids(workspace)) == len({*written_ids(workspace)}) == 200
    assert read_failures(workspace).num_rows == 0
