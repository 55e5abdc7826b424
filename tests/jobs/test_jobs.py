"""The jobs against a real head node that wants a token, started and stopped by the test."""

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from planted import planted_workspace

from emi_ray.corpus.setup import init_workspace
from emi_ray.tuning.storage import journal_path, open_storage
from emi_ray.tuning.study import kind_of
from emi_ray.workspace import Workspace

ROOT = Path(__file__).parents[2]
SPACE = "parameters: {fusion.dropout: {uniform: [0.1, 0.7]}, fusion.hidden: {choice: [8, 16, 32]}}"
SMALL = [f"encoders.{modality}.hidden=16" for modality in ("text", "audio", "vision")]
WITHOUT_TOKEN = {
    **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
    "RAY_AUTH_MODE": "disabled",
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
}
ENVIRONMENT = {**WITHOUT_TOKEN, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def first_of_free_ports(count: int) -> int:
    """The first of so many free ports outside the range that Ray gives to its workers (10002–19999)."""
    return next(p for p in range(20500, 30000, count) if all(map(is_free, range(p, p + count))))


def is_free(port: int) -> bool:
    with socket.socket() as candidate:
        return candidate.connect_ex(("127.0.0.1", port)) != 0


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """The address of the job API of a head node that lives as long as the tests of this file."""
    ports = {"port": first_of_free_ports(4)}
    ports["dashboard-port"] = ports["port"] + 1
    ports["dashboard-agent-listen-port"] = ports["port"] + 2
    ports["metrics-export-port"] = ports["port"] + 3
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # a short path: it holds sockets
    log = (folder / "log").open("wb")
    command = ["ray", "start", "--head", "--block", "--num-cpus=8", "--num-gpus=0", f"--temp-dir={folder}"]
    command += ["--dashboard-host=127.0.0.1", "--include-dashboard=true"]
    command += [f"--{name}={port}" for name, port in ports.items()]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{ports['dashboard-port']}"
    try:
        await_answer(f"{address}/api/jobs/", process)
        yield address
    finally:
        stop(process)
        shutil.rmtree(folder)


def stop(process: subprocess.Popen) -> None:
    """End a head node with all its processes at once; ``ray start`` itself takes half a minute to."""
    family = [process, *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()


def await_answer(url: str, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        assert process.poll() is None, "ray start ended"
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except urllib.error.HTTPError:  # it wants a token
            return
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise AssertionError(f"{url} does not answer")


def submit(head: str, *command: str, env: Mapping[str, str] = ENVIRONMENT) -> subprocess.CompletedProcess:
    line = ["ray", "job", "submit", "--address", head, "--working-dir", ".", "--", "python", *command]
    return subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def submit_and_stop(head: str, name: str, command: Sequence[str], when: Callable[[], bool]) -> None:
    """Submit a job, and stop it by its name as soon as ``when`` is true."""
    line = ["ray", "job", "submit", "--address", head, "--working-dir", ".", "--no-wait"]
    line += ["--submission-id", name, "--", "python", *command]
    subprocess.run(line, cwd=ROOT, env=ENVIRONMENT, check=True)
    deadline = time.monotonic() + 240
    while not when():
        assert time.monotonic() < deadline, f"{name} does nothing"
        time.sleep(0.1)
    ask(head, f"{name}/stop", "POST")  # ray job stop does this, after starting for seconds
    while (status := ask(head, name)["status"]) in ("PENDING", "RUNNING"):
        assert time.monotonic() < deadline, f"{name} does not stop"
        time.sleep(0.1)
    assert status == "STOPPED"


def ask(head: str, what: str, method: str = "GET") -> dict[str, Any]:
    """What the job API answers."""
    token = {"Authorization": f"Bearer {ENVIRONMENT['RAY_AUTH_TOKEN']}"}
    request = urllib.request.Request(f"{head}/api/jobs/{what}", method=method, headers=token)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


@pytest.mark.slow
def test_the_pipeline_runs_as_a_job(head, demo_corpus, tmp_path):
    arguments = [
        "f2",
        "training.epochs=2",
        "-w",
        str(tmp_path),
        "--corpus",
        "demo",
        "--source",
        str(demo_corpus),
    ]
    done = submit(head, "jobs/pipeline.py", *arguments)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    workspace = Workspace(str(tmp_path))
    assert workspace.read_json("runs/f2/42/metrics.json")["num_val"] > 0
    assert workspace.exists("report/index.html")
    assert "Validation Pearson r of f2" in done.stdout


@pytest.mark.slow
def test_a_users_mistake_fails_the_job_with_its_message(head, tmp_path):
    done = submit(head, "jobs/train.py", "f2", "-w", str(tmp_path))
    assert done.returncode == 1
    assert "No workspace at" in done.stdout + done.stderr


def kinds_of(workspace: Workspace) -> list[str]:
    if not journal_path(workspace, "s").exists():
        return []
    storage = open_storage(workspace, "s", None)
    return [
        kind_of(trial)
        for each in storage.get_all_studies()
        for trial in storage.get_all_trials(each._study_id)
    ]


def num_finished(workspace: Workspace) -> int:
    return sum(kind in ("complete", "pruned") for kind in kinds_of(workspace))


@pytest.mark.slow
def test_a_submission_without_the_token_is_refused(head, tmp_path):
    done = submit(head, "jobs/train.py", "f2", "-w", str(tmp_path), env=WITHOUT_TOKEN)
    assert done.returncode != 0
    assert "token" in (done.stdout + done.stderr).lower()
    assert not list(tmp_path.iterdir())


def parts_of(workspace: Workspace) -> list[str]:
    return [path for path in workspace.files("features", recursive=True) if path.endswith(".parquet")]


@pytest.mark.long
@pytest.mark.timeout(900)
def test_an_extraction_that_is_stopped_and_submitted_again_leaves_each_clip_once(head, tmp_path):
    ids = [f"c{index:04}" for index in range(12_000)]
    rows = [f"{clip_id},train,word {clip_id} of many\n" for clip_id in ids]
    (tmp_path / "clips.csv").write_text("clip_id,split,transcript\n" + "".join(rows))
    workspace = Workspace(str(tmp_path / "w"))
    init_workspace(workspace, "table", str(tmp_path / "clips.csv"))
    command = ["jobs/extract.py", "-w", workspace.root, "--modalities", "text"]
    command += ["extraction.measure=false", "extraction.stages.text.max_actors=1"]
    submit_and_stop(head, "extraction", command, lambda: bool(parts_of(workspace)))
    left = len(ids) - sum(workspace.read_table(part, ["clip_id"]).num_rows for part in parts_of(workspace))
    done = submit(head, *command)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert 0 < left < len(ids)
    held = [i for part in parts_of(workspace) for i in workspace.read_table(part)["clip_id"].to_pylist()]
    assert sorted(held) == sorted(ids)
    assert "Extraction" in done.stdout


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_training_that_is_stopped_and_submitted_again_does_what_is_missing(head, tmp_path):
    workspace = planted_workspace(tmp_path / "w", num_train=48, num_val=24)
    seeds = [f"--seed={seed}" for seed in range(24)]  # three times as many as run at once
    command = ["jobs/train.py", "f1", *SMALL, "fusion.hidden=16", "training.epochs=10", *seeds]
    command += ["--any-features", "-w", workspace.root]

    def finished() -> dict[str, float]:
        paths = Path(workspace.root).glob("runs/f1/*/metrics.json")
        return {path.parent.name: path.stat().st_mtime for path in paths}

    submit_and_stop(head, "training", command, lambda: bool(finished()))
    before = finished()
    done = submit(head, *command)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    after = finished()
    assert len(before) < len(after) == 24
    assert before.items() <= after.items(), "what was finished is not done again"
    assert "Validation Pearson r" in done.stdout


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_stopped_job_leaves_a_study_that_goes_on(head, tmp_path):
    workspace = planted_workspace(tmp_path / "w", num_train=48, num_val=24)
    (tmp_path / "space.yaml").write_text(SPACE)
    arguments = ["jobs/tune.py", "f1", *SMALL, "fusion.hidden=16", "training.epochs=12", "-w", workspace.root]
    arguments += ["--space", str(tmp_path / "space.yaml"), "--study", "s", "--seeds", "0"]
    submit_and_stop(head, "endless", [*arguments, "--trials", "500"], lambda: num_finished(workspace) >= 2)
    before = num_finished(workspace)
    done = submit(head, *arguments, "--trials", str(before + 3))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    kinds = kinds_of(workspace)
    assert sum(kind in ("complete", "pruned") for kind in kinds) == before + 3
    assert "running" not in kinds
    record = json.loads(Path(workspace.path("studies/s/trials.json")).read_text())
    assert [trial["state"] for trial in record["trials"]] == [kind for kind in kinds if kind]
