"""A search as a job: stopped in its middle it leaves a study that the same job takes to its end."""

import json
import subprocess
import time
from pathlib import Path

import pytest
from planted import planted_workspace
from test_jobs import ENVIRONMENT, ROOT, head, submit

from emi_ray.tuning.storage import journal_path, open_storage
from emi_ray.tuning.study import kind_of
from emi_ray.workspace import Workspace

__all__ = ["head"]  # the fixture: a head node for the tests of this file

SPACE = "parameters: {fusion.dropout: {uniform: [0.1, 0.7]}, fusion.hidden: {choice: [8, 16, 32]}}"
SMALL = [f"encoders.{modality}.hidden=16" for modality in ("text", "audio", "vision")]


def kinds_of(workspace: Workspace) -> list[str]:
    if not journal_path(workspace, "s").exists():
        return []
    storage = open_storage(workspace, "s", None)
    return [
        kind_of(trial)
        for each in storage.get_all_studies()
        for trial in storage.get_all_trials(each._study_id)
    ]


def stop_the_job(head: str) -> None:
    line = ["ray", "job", "list", "--address", head]
    listed = subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True, check=True).stdout
    (job,) = {part.strip("'\",") for part in listed.replace("=", " ").split() if "raysubmit_" in part}
    subprocess.run(["ray", "job", "stop", "--address", head, job], env=ENVIRONMENT, check=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_stopped_job_leaves_a_study_that_goes_on(head, tmp_path):
    workspace = planted_workspace(tmp_path / "w", num_train=48, num_val=24)
    (tmp_path / "space.yaml").write_text(SPACE)
    arguments = ["jobs/tune.py", "f1", *SMALL, "fusion.hidden=16", "training.epochs=12", "-w", workspace.root]
    arguments += ["--space", str(tmp_path / "space.yaml"), "--study", "s", "--seeds", "0"]
    endless = ["ray", "job", "submit", "--address", head, "--working-dir", ".", "--no-wait", "--", "python"]
    subprocess.run([*endless, *arguments, "--trials", "500"], cwd=ROOT, env=ENVIRONMENT, check=True)
    while sum(kind in ("complete", "pruned") for kind in kinds_of(workspace)) < 2:
        time.sleep(0.2)
    stop_the_job(head)
    before = sum(kind in ("complete", "pruned") for kind in kinds_of(workspace))
    done = submit(head, *arguments, "--trials", str(before + 3))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    kinds = kinds_of(workspace)
    assert sum(kind in ("complete", "pruned") for kind in kinds) == before + 3
    assert "running" not in kinds
    record = json.loads(Path(workspace.path("studies/s/trials.json")).read_text())
    assert [trial["state"] for trial in record["trials"]] == [kind for kind in kinds if kind]
