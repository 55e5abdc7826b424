"""Kills at random moments. EMI_RAY_KILLS=5 makes five of each kind."""

import csv
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from emi_ray.corpus.setup import init_workspace
from emi_ray.extraction.pending import store_of
from emi_ray.extraction.pipeline import plan_pipeline
from emi_ray.extraction.run import extract
from emi_ray.store.failures import read_failures
from emi_ray.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

KILLS = range(int(os.environ.get("EMI_RAY_KILLS", "1")))
REPEATS = 2
SETTINGS = ["extraction.rows_per_block=4", "extraction.stages.text.batch_size=8"]
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}


@pytest.fixture(scope="module")
def table(demo_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's clips three times over, under other names, and a bad file."""
    folder = tmp_path_factory.mktemp("kills")
    (folder / "bad.mp4").write_text("this is no video")
    with (demo_corpus / "clips.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    repeated = [
        {**row, "clip_id": f"{row['clip_id']}-{copy}", "video": str(demo_corpus / row["video"])}
        for copy in range(REPEATS)
        for row in rows
    ]
    repeated.append({**repeated[0], "clip_id": "bad", "video": str(folder / "bad.mp4")})
    with (folder / "clips.csv").open("w") as stream:
        writer = csv.DictWriter(stream, repeated[0])
        writer.writeheader()
        writer.writerows(repeated)
    return folder / "clips.csv"


def new_workspace(folder: Path, table: Path) -> Workspace:
    workspace = Workspace(str(folder))
    init_workspace(workspace, "table", str(table), SETTINGS)
    return workspace


def start(workspace: Workspace) -> subprocess.Popen:
    command = [sys.executable, "-m", "emi_ray", "extract", "-w", workspace.root]
    return subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def descendants(process: subprocess.Popen) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return output


def await_first_part(workspace: Workspace, process: subprocess.Popen) -> None:
    while not any(path.endswith(".parquet") for path in workspace.files("features", recursive=True)):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)


def contents(workspace: Workspace) -> dict[str, dict[str, bytes]]:
    """Bytes of every clip's features, by modality. Fails if a clip stands in two parts."""
    found: dict[str, dict[str, bytes]] = {}
    for modality, spec in plan_pipeline(workspace, workspace.config()).specs.items():
        store = store_of(workspace, spec)
        written = sum(workspace.read_table(part, ["clip_id"]).num_rows for part in store.parts())
        found[modality] = {row.clip_id: row.values.tobytes() for row in store.rows()}
        assert written == len(found[modality])
    return found


def failures(workspace: Workspace) -> set[tuple[str, str, str]]:
    rows = read_failures(workspace).to_pylist()
    return {(row["clip_id"], row["modality"], row["error"]) for row in rows}


@pytest.fixture(scope="module")
def undisturbed(table: Path, tmp_path_factory, ray_session) -> tuple[Workspace, float]:
    """A workspace that nobody disturbed, and the seconds from its first finished clip to its last."""
    workspace = new_workspace(tmp_path_factory.mktemp("undisturbed"), table)
    finished: list[float] = []
    extract(workspace, workspace.config(), on_progress=lambda done, total: finished.append(time.monotonic()))
    return workspace, finished[-1] - finished[0]


@pytest.mark.parametrize("kill", KILLS)
def test_a_killed_driver_costs_only_what_was_in_flight(kill, undisturbed, table, tmp_path):
    reference, seconds = undisturbed
    workspace = new_workspace(tmp_path, table)
    process = start(workspace)
    await_first_part(workspace, process)
    time.sleep(random.uniform(0, seconds * 0.6))
    # Ray's two agents look for their raylet only now and then; all else goes at once.
    orphans = [orphan for orphan in descendants(process) if "Agent" not in orphan.name()]
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(orphans, timeout=60)
    assert not alive
    done = {path: workspace.read_bytes(path) for path in workspace.files("features", recursive=True)}
    finish(start(workspace))
    assert contents(workspace) == contents(reference)
    assert failures(workspace) == failures(reference)
    assert done.items() <= {path: workspace.read_bytes(path) for path in done}.items()


@pytest.mark.parametrize("kill", KILLS)
def test_a_killed_worker_costs_nothing(kill, undisturbed, table, tmp_path):
    reference, seconds = undisturbed
    workspace = new_workspace(tmp_path, table)
    process = start(workspace)
    await_first_part(workspace, process)
    time.sleep(random.uniform(0, seconds * 0.4))
    random.choice([worker for worker in descendants(process) if "MapWorker" in worker.name()]).kill()
    finish(process)
    assert contents(workspace) == contents(reference)
    assert failures(workspace) == failures(reference)
    assert extract(workspace, workspace.config()).clips == 0
