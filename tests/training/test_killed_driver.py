"""The driver of eight runs is killed in their middle, and the same command started again."""

import pytest
from killed_driver import RunsCommand
from planted import planted_workspace

from emi_ray.config import WorkspaceConfig
from emi_ray.recipe.loading import load_recipe
from emi_ray.training.plan import plan_run
from emi_ray.training.run import execute_run

SEEDS = range(42, 50)
SMALL = [f"encoders.{m}.hidden=16" for m in ("text", "audio", "vision")]
SETTINGS = [*SMALL, "fusion.hidden=16", "training.epochs=8"]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_eight_runs_whose_driver_is_killed_end_once_and_as_undisturbed_ones(tmp_path):
    workspace = planted_workspace(tmp_path / "killed", num_train=48, num_val=24)
    command = ["train", "-w", workspace.root, "f1", "--any-features", *SETTINGS]
    command += [f"--seed={seed}" for seed in SEEDS]
    eight = RunsCommand(workspace, command, [f"f1/{seed}" for seed in SEEDS])
    before = eight.kill_after_two()
    assert before.items() <= eight.repeat().items(), "a finished run is not repeated"
    assert not workspace.files("checkpoints")
    undisturbed = planted_workspace(tmp_path / "undisturbed", num_train=48, num_val=24)
    recipe = load_recipe("f1", SETTINGS)
    for seed in SEEDS:
        expected = execute_run(plan_run(undisturbed, recipe, WorkspaceConfig(), seed))
        found = workspace.read_json(f"runs/f1/{seed}/metrics.json")
        assert found["val_pearson"] == pytest.approx(expected["val_pearson"], abs=1e-6)
