"""The driver is killed at random moments, and the same command started again each time.

EMI_RAY_KILLS=5 makes five kills.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from planted import planted_workspace

from emi_ray.tuning.storage import journal_path, open_storage
from emi_ray.tuning.study import REPEAT, RETRY, START, kind_of
from emi_ray.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

KILLS = int(os.environ.get("EMI_RAY_KILLS", "1"))
TRIALS = 4 + 2 * KILLS
SPACE = """
parameters:
  fusion.dropout: {quantised: [0.15, 0.65, 0.1]}
  fusion.hidden: {choice: [8, 16, 32]}
  fusion.lr: {choice: [0.0002, 0.001, 0.005]}
"""
SMALL = [f"encoders.{modality}.hidden=16" for modality in ("text", "audio", "vision")]
SMALL += ["fusion.hidden=16", "training.epochs=12", "training.patience=12"]


def start(workspace: Workspace, space: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "emi_ray", "tune", "-w", workspace.root, "f1", *SMALL]
    command += ["--space", str(space), "--trials", str(TRIALS), "--study", "s", "--seeds", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    log = (Path(workspace.root) / "log").open("ab")
    return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)


def trials_of(workspace: Workspace) -> list[optuna.trial.FrozenTrial]:
    if not journal_path(workspace, "s").exists():
        return []
    storage = open_storage(workspace, "s", None)
    return [trial for each in storage.get_all_studies() for trial in storage.get_all_trials(each._study_id)]


def kill_while_trials_run(workspace: Workspace, driver: subprocess.Popen, moment: random.Random) -> None:
    known = len(trials_of(workspace))
    while len(trials_of(workspace)) <= known and driver.poll() is None:
        time.sleep(0.1)
    time.sleep(moment.uniform(0.0, 1.5))
    driver.send_signal(signal.SIGKILL)
    driver.wait()


def test_a_search_killed_again_and_again_ends_with_exactly_its_trials(tmp_path):
    workspace = planted_workspace(tmp_path / "w", num_train=48, num_val=24)
    space = tmp_path / "space.yaml"
    space.write_text(SPACE)
    moment = random.Random(0)
    finished_before: dict[int, optuna.trial.FrozenTrial] = {}
    kills = 0
    for _ in range(KILLS):
        driver = start(workspace, space)
        kill_while_trials_run(workspace, driver, moment)
        kills += driver.returncode == -signal.SIGKILL
        now = {trial.number: trial for trial in trials_of(workspace)}
        assert all(now[number] == trial for number, trial in finished_before.items()), "nothing is rewritten"
        finished_before = {n: trial for n, trial in now.items() if kind_of(trial) in ("complete", "pruned")}
    assert kills == KILLS
    assert start(workspace, space).wait() == 0, (Path(workspace.root) / "log").read_text()[-3000:]

    trials = trials_of(workspace)
    finished = [trial for trial in trials if kind_of(trial) in ("complete", "pruned")]
    assert len(finished) == TRIALS
    assert not any(trial.state == optuna.trial.TrialState.RUNNING for trial in trials)
    tried = [tuple(sorted(trial.params.items())) for trial in finished]
    assert len(set(tried)) == TRIALS, "no trial repeats a finished one's parameters"
    assert sum(START in trial.user_attrs for trial in finished) == 1
    lost = [trial for trial in trials if kind_of(trial) == "lost"]
    assert len(lost) <= 2 * KILLS, "only trials in flight are lost"
    retried = {trial.user_attrs[RETRY] for trial in trials if RETRY in trial.user_attrs}
    assert retried <= {trial.number for trial in lost}
    assert all(kind_of(trial) != "failed" for trial in trials)
    assert all(REPEAT not in trial.user_attrs for trial in finished)
