"""An extraction into an object store that cannot be reached for a while, is killed, and is cut off for good."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from emi_ray import driver_lock
from emi_ray.cli import main
from emi_ray.corpus.setup import init_workspace
from emi_ray.store.failures import read_failures
from emi_ray.workspace import Workspace
from tests.cluster.test_deaths import held, new_workspace

ROOT = Path(__file__).parents[2]
WORDS = {f"w{index:03d}": f"word {index}" for index in range(96)}
SETTINGS = ["extractors.text.settings.seconds=0.1", "extraction.stages.text.batch_size=8"]


def parts_of(workspace: Workspace) -> list[str]:
    return [path for path in workspace.files("features", recursive=True) if path.endswith(".parquet")]


def await_parts(workspace: Workspace, least: int) -> None:
    deadline = time.monotonic() + 240
    while len(parts_of(workspace)) < least:
        assert time.monotonic() < deadline, "no features came"
        time.sleep(0.2)


def content_of(workspace: Workspace) -> dict[str, str]:
    """By clip, the hash of its features. Each clip is there once."""
    tables = [workspace.read_table(part, ["clip_id", "digest"]) for part in parts_of(workspace)]
    rows = [row for table in tables for row in table.to_pylist()]
    assert len(rows) == len({row["clip_id"] for row in rows})
    return {row["clip_id"]: row["digest"] for row in rows}


def run(workspace: Workspace) -> int:
    with pytest.raises(SystemExit) as ending:
        main(["extract", "-w", workspace.root, "--modalities", "text"])
    return int(ending.value.code or 0)


@pytest.mark.long
@pytest.mark.timeout(400)
def test_outages_and_kills_cost_no_clip_and_leave_each_row_once(
    faltering, tmp_path, ray_session, monkeypatch, capsys
):
    calm = new_workspace(tmp_path, WORDS, SETTINGS)
    assert run(calm) == 0
    workspace = Workspace(faltering.uri("stormy"))
    faulty = "extractors.text.name=tests.cluster.faulty:Faulty"
    init_workspace(workspace, "table", str(tmp_path / "clips.csv"), [faulty, *SETTINGS])

    command = [sys.executable, "-m", "emi_ray", "extract", "-w", workspace.root, "--modalities", "text"]
    path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with (tmp_path / "log").open("wb") as log:
        running = subprocess.Popen(
            command,
            env={**environment, "PYTHONPATH": path},
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )
    await_parts(workspace, 2)
    before, faltering.is_out = len(parts_of(workspace)), True
    time.sleep(20)
    faltering.is_out = False
    await_parts(workspace, before + 2)  # it has outlived the outage, and goes on
    assert running.poll() is None, (tmp_path / "log").read_text()
    running.kill()
    running.wait()

    monkeypatch.setattr(driver_lock, "LAPSES_AFTER_S", 1.0)  # of the lease that the dead driver holds
    time.sleep(2.1)
    done = len(content_of(workspace))
    assert 0 < done < 120
    shutting = threading.Timer(4.0, lambda: setattr(faltering, "is_out", True))
    shutting.start()
    code = run(workspace)
    shutting.join()
    faltering.is_out = False
    assert code == 1
    assert "cannot be reached" in " ".join(capsys.readouterr().err.split())
    assert read_failures(workspace).num_rows == 0

    time.sleep(2.1)
    assert run(workspace) == 0
    assert read_failures(workspace).num_rows == 0
    assert content_of(workspace) == content_of(calm)
    assert held(workspace) == held(calm)
