"""Kill random processes during an extraction and check that no clip is lost or stored twice.

    python -m benchmarks.chaos --minutes 5 --seed 1 2 3 4

A Ray cluster with a head and two nodes runs on this machine, and `emi-ray extract` runs on it. Every few seconds,
while actors are at work, one process is killed with SIGKILL: an actor (6 of 8 kills), a node with all processes
that it started (1 of 8; a new node is started), or the driver (1 of 8; the same command is started again). When the
time is over, the extraction is left to finish. Its store is then compared with the store of an undisturbed run.
Each seed is a run of its own.
"""

import argparse
import csv
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from ray.cluster_utils import Cluster

from emi_ray.corpus.demo import render_demo
from emi_ray.corpus.setup import init_workspace
from emi_ray.extraction.pending import store_of
from emi_ray.extraction.pipeline import plan_pipeline
from emi_ray.store.failures import read_failures
from emi_ray.workspace import Workspace

FAST_DEATH = {
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 4,
    "health_check_timeout_ms": 1000,
}
NUM_NODES = 2


@dataclass
class Chaos:
    """A cluster, a driver that works on it, and the processes that were killed so far."""

    cluster: Cluster
    workspace: Workspace
    log: Path
    kills: Counter[str] = field(default_factory=Counter)
    driver: "subprocess.Popen[bytes] | None" = None

    def start_driver(self) -> None:
        command = [sys.executable, "-m", "emi_ray", "extract", "-w", self.workspace.root]
        with self.log.open("ab") as output:
            self.driver = subprocess.Popen(
                [*command, "--address", self.cluster.address], stdout=output, stderr=output, env=environment()
            )

    def kill_something(self) -> None:
        choice = random.choice(["actor"] * 6 + ["node", "driver"])
        getattr(self, f"_kill_{choice}")()

    def actors(self) -> list[psutil.Process]:
        """Return the processes that decode and extract now, and the decoders that they started."""
        found = []
        for node in self.cluster.worker_nodes:
            with suppress(psutil.NoSuchProcess):
                raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
                family = raylet.children(recursive=True)
                found += [process for process in family if _is_actor(process)]
        return found

    def _kill_actor(self) -> None:
        with suppress(psutil.NoSuchProcess, IndexError):
            random.choice(self.actors()).kill()
            self.kills["actor"] += 1

    def _kill_node(self) -> None:
        node = random.choice(list(self.cluster.worker_nodes))
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        for process in [*raylet.children(recursive=True), raylet]:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.cluster.worker_nodes.discard(node)
        self.kills["node"] += 1
        _add_node(self.cluster)

    def _kill_driver(self) -> None:
        assert self.driver is not None
        self.driver.kill()
        self.driver.wait()
        self.kills["driver"] += 1
        self.start_driver()


def _is_actor(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return "MapWorker" in process.name() or "emi_ray.media.worker" in process.cmdline()
    return False


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, nargs="+", default=[1])
    parser.add_argument("--clips", type=int, default=300)
    parser.add_argument(
        "--pause", type=float, default=8.0, help="longest pause between two kills, in seconds"
    )
    options = parser.parse_args()
    os.environ["RAY_AUTH_MODE"] = "disabled"
    with tempfile.TemporaryDirectory(prefix="emi-ray-chaos-") as name:
        folder = Path(name)
        table = _table(folder, options.clips)
        calm = _workspace(folder / "calm", table)
        command = [sys.executable, "-m", "emi_ray", "extract", "-w", calm.root]
        subprocess.run(command, check=True, env=environment(), stdout=subprocess.DEVNULL)
        kills: Counter[str] = Counter()
        for seed in options.seed:
            random.seed(seed)
            began = time.monotonic()
            with _cluster() as cluster:
                chaos = Chaos(cluster, _workspace(folder / f"seed{seed}", table), folder / f"log{seed}")
                _torment(chaos, options.minutes, options.pause)
            seconds = time.monotonic() - began
            print(f"seed {seed}: {chaos.kills.total()} kills in {seconds:.0f} s: {dict(chaos.kills)}")
            _compare(calm, chaos.workspace)
            kills += chaos.kills
        print(f"{len(options.seed)} seeds: {kills.total()} kills: {dict(kills)}", flush=True)


def environment() -> dict[str, str]:
    """Return the environment of this process without its settings of Ray."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**kept, "RAY_AUTH_MODE": "disabled"}


def _torment(chaos: Chaos, minutes: float, longest_pause_s: float) -> None:
    chaos.start_driver()
    assert chaos.driver is not None
    ends = time.monotonic() + 60 * minutes
    while time.monotonic() < ends:
        time.sleep(random.uniform(1, longest_pause_s))
        if chaos.driver.poll() is not None:
            if chaos.driver.returncode == 0:
                return
            chaos.start_driver()  # it gave up, and says to repeat the command
        if chaos.actors():
            chaos.kill_something()
    for _ in range(5):
        if chaos.driver.wait(timeout=1200) == 0:
            return
        chaos.start_driver()
    raise SystemExit(f"the extraction does not finish:\n{chaos.log.read_text()[-3000:]}")


def _compare(calm: Workspace, tormented: Workspace) -> None:
    wrong = []
    for modality, spec in plan_pipeline(calm, calm.config()).specs.items():
        expected = {row.clip_id: row.values.tobytes() for row in store_of(calm, spec).rows()}
        store = store_of(tormented, spec)
        rows = [(row.clip_id, row.values.tobytes()) for row in store.rows()]
        written = sum(tormented.read_table(part, ["clip_id"]).num_rows for part in store.parts())
        lost, other = expected.keys() - dict(rows).keys(), dict(rows).keys() - expected.keys()
        differing = sum(expected.get(clip_id) != values for clip_id, values in rows)
        print(
            f"{modality}: {len(rows)} clips, {len(lost)} lost, {written - len(rows)} twice, {differing} differ"
        )
        wrong += [*lost, *other] if lost or other else []
        wrong += [modality] if differing or written != len(rows) else []
    failures = [
        {(row["clip_id"], row["modality"], row["error"]) for row in read_failures(workspace).to_pylist()}
        for workspace in (calm, tormented)
    ]
    print(f"quarantined: {len(failures[1])}, in the undisturbed run {len(failures[0])}")
    if wrong or failures[0] != failures[1]:
        raise SystemExit(f"WRONG: {wrong[:10]}, {sorted(failures[0] ^ failures[1])[:5]}")


def _table(folder: Path, num_clips: int) -> Path:
    """Return the demo corpus's clips, repeated under other names until there are enough."""
    render_demo(folder / "demo", num_clips=24)
    with (folder / "demo" / "clips.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    with (folder / "clips.csv").open("w") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        for index in range(num_clips):
            row = rows[index % len(rows)]
            video = str(folder / "demo" / row["video"])
            writer.writerow({**row, "clip_id": f"{row['clip_id']}-{index}", "video": video})
    return folder / "clips.csv"


def _workspace(folder: Path, table: Path) -> Workspace:
    workspace = Workspace(str(folder))
    init_workspace(workspace, "table", str(table), ["extraction.wait_for_nodes_s=120"])
    return workspace


@contextmanager
def _cluster() -> Iterator[Cluster]:
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": FAST_DEATH}
    cluster = Cluster(initialize_head=True, head_node_args={**head, "object_store_memory": 300 * 2**20})
    try:
        for _ in range(NUM_NODES):
            _add_node(cluster)
        yield cluster
    finally:
        cluster.shutdown()


def _add_node(cluster: Cluster) -> None:
    """Add a node; try three times, because on a busy machine it may not start within Ray's 30 s."""
    for _ in range(3):
        with suppress(Exception):
            cluster.add_node(num_cpus=4, resources={"cores": 1}, object_store_memory=300 * 2**20, wait=True)
            return
    raise SystemExit("no node starts on this machine")


if __name__ == "__main__":
    main()
