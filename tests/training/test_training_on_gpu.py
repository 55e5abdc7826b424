"""What only a GPU can show of training: the scores of the CPU, and runs that share the device."""

import pytest
import torch
from planted import planted_workspace

from emi_ray.config import WorkspaceConfig
from emi_ray.recipe.loading import load_recipe
from emi_ray.training.plan import plan_run
from emi_ray.training.run import execute_run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


def test_a_run_on_the_gpu_scores_as_on_the_cpu(ray_session, tmp_path):
    from emi_ray.training.runs import RunRequest, train_runs

    overrides = ["training.epochs=8", "training.patience=null"]
    recipe = load_recipe("f2", overrides)
    workspace = planted_workspace(tmp_path / "gpu", num_train=192, num_val=96)
    [result] = train_runs(workspace, [RunRequest(recipe, 1)], WorkspaceConfig())
    assert result.problem is None
    assert result.metrics["gpus"] == ["0"]
    here = planted_workspace(tmp_path / "cpu", num_train=192, num_val=96)
    expected = execute_run(plan_run(here, recipe, WorkspaceConfig(), 1))
    assert result.metrics["val_pearson"] == pytest.approx(expected["val_pearson"], abs=0.03)


def test_runs_share_the_gpu(ray_session, tmp_path):
    from emi_ray.training.runs import RunRequest, train_runs

    workspace = planted_workspace(tmp_path, num_train=96, num_val=48)
    recipe = load_recipe("f1", ["training.epochs=3"])
    results = train_runs(workspace, [RunRequest(recipe, seed) for seed in range(4)], WorkspaceConfig())
    assert all(result.problem is None and result.metrics["gpus"] == ["0"] for result in results)
    spans = [(r.metrics["started"], r.metrics["seconds"]) for r in results]
    print(spans)
