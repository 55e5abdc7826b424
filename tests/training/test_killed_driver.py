"""The driver of eight runs is killed in their middle, and the same command started again."""

import os
import signal
import subprocess
import sys
import time

import pytest
from planted import planted_workspace

from emi_ray.config import WorkspaceConfig
from emi_ray.recipe import load_recipe
from emi_ray.training.plan import plan_run
from emi_ray.training.run import execute_run
from emi_ray.workspace import Workspace

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        "EMI_RAY_LONG_TESTS" not in os.environ, reason="takes minutes: make test-long runs it"
    ),
]

SEEDS = range(42, 50)
SMALL = [f"encoders.{m}.hidden=16" for m in ("text", "audio", "vision")]
SETTINGS = [*SMALL, "fusion.hidden=16", "training.epochs=8"]


def start(workspace: Workspace) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "emi_ray",
        "train",
        "-w",
        workspace.root,
        "f1",
        "--any-features",
        *SETTINGS,
    ]
    command += [f"--seed={seed}" for seed in SEEDS]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with open(os.path.join(workspace.root, "log"), "ab") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)


def finished(workspace: Workspace) -> dict[int, float]:
    """When each run wrote its metrics, which it does once."""
    paths = {seed: workspace.path(f"runs/f1/{seed}/metrics.json") for seed in SEEDS}
    return {seed: os.stat(path).st_mtime for seed, path in paths.items() if os.path.exists(path)}


def test_eight_runs_whose_driver_is_killed_end_once_and_as_undisturbed_ones(tmp_path):
    workspace = planted_workspace(tmp_path / "killed", num_train=48, num_val=24)
    driver = start(workspace)
    while len(finished(workspace)) < 2 and driver.poll() is None:
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL
    time.sleep(3)  # its workers end by themselves
    before = finished(workspace)
    assert 2 <= len(before) < len(SEEDS)

    again = start(workspace)
    assert again.wait() == 0, workspace.read_bytes("log").decode()[-3000:]
    after = finished(workspace)
    assert before.items() <= after.items(), "a finished run is not repeated"
    assert not workspace.files("checkpoints")
    undisturbed = planted_workspace(tmp_path / "undisturbed", num_train=48, num_val=24)
    recipe = load_recipe("f1", SETTINGS)
    for seed in SEEDS:
        expected = execute_run(plan_run(undisturbed, recipe, WorkspaceConfig(), seed))
        found = workspace.read_json(f"runs/f1/{seed}/metrics.json")
        assert found["val_pearson"] == pytest.approx(expected["val_pearson"], abs=1e-6)
