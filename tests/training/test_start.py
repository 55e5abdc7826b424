"""What a training costs before its first step."""

import subprocess
import sys

import torch
from planted import planted_workspace

from emi_ray.training.optimizer import EagerAdamW


def imported_after(code, names):
    """Return which of ``names`` a new process has imported after running ``code``."""
    code += f"\nimport sys; print(*[name for name in {names} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_a_training_process_imports_nothing_that_it_does_not_need():
    """Each of these takes .2 to 1.4 s in every process."""
    code = """
import torch
import emi_ray.training.run, emi_ray.training.stages.encoder_job
from emi_ray.training.optimizer import EagerAdamW
optimizer = EagerAdamW([torch.nn.Parameter(torch.ones(2))])
optimizer.zero_grad()
optimizer.step()
optimizer.load_state_dict(optimizer.state_dict())
"""
    unneeded = ["torch._dynamo", "sympy", "pandas", "scipy", "transformers", "cv2", "av", "ray.data"]
    assert not imported_after(code, unneeded)


def test_planning_runs_imports_nothing_that_it_does_not_need(tmp_path):
    """Planning comes before Ray starts, so the user waits for it."""
    workspace = planted_workspace(tmp_path, num_train=8, num_val=4)
    code = f"""
from emi_ray.api.training import plan_runs
assert len(plan_runs({str(workspace.root)!r}, ["text"], any_features=True).requests) == 1
"""
    assert not imported_after(code, ["torch", "ray.data", "scipy"])


def test_the_optimiser_is_adamw():
    weights = []
    for kind in (EagerAdamW, torch.optim.AdamW):
        torch.manual_seed(0)
        model = torch.nn.Linear(5, 3)
        optimizer = kind(model.parameters(), lr=0.1, fused=True)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.9**epoch)
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.randn(4, 5)).square().sum().backward()
            optimizer.step()
            scheduler.step()
            optimizer.load_state_dict(optimizer.state_dict())
        weights.append(model.weight.detach())
    assert torch.equal(*weights)
