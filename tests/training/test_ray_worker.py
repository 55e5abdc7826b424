import os
import signal
import threading

import pytest
from planted import planted_workspace

from emi_ray.config import WorkspaceConfig
from emi_ray.errors import UserError
from emi_ray.recipe import load_recipe
from emi_ray.training.run import execute_run, plan_run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session")]

SMALL = ["fusion.hidden=16"] + [f"encoders.{m}.hidden=16" for m in ("text", "audio", "vision")]


def kill_the_train_worker():
    import psutil

    for process in psutil.Process(os.getpid()).children(recursive=True):
        if "RayTrainWorker" in " ".join(process.cmdline()):
            process.send_signal(signal.SIGKILL)


def test_a_killed_worker_resumes_and_ends_as_a_run_without_ray(tmp_path):
    from emi_ray.training import ray_worker

    recipe = load_recipe("f1", [*SMALL, "training.epochs=6"])
    workspace = planted_workspace(tmp_path / "a", num_train=48, num_val=24)
    seen = []
    killed = threading.Event()

    def watch(scores):
        seen.append((scores["stage"], scores["epoch"]))
        if scores["stage"] == "vision" and not killed.is_set():
            killed.set()
            kill_the_train_worker()

    metrics = ray_worker.train(workspace, recipe, WorkspaceConfig(), on_progress=watch, checkpoint_every_s=0)
    assert killed.is_set()
    undisturbed = planted_workspace(tmp_path / "b", num_train=48, num_val=24)
    expected = execute_run(plan_run(undisturbed, recipe, WorkspaceConfig(), 42))
    assert metrics["val_pearson"] == pytest.approx(expected["val_pearson"], abs=1e-6)
    assert ("fusion", 6) in seen
    assert not workspace.files("runs/f1/42/ray", recursive=True)

    again = ray_worker.train(workspace, recipe, WorkspaceConfig())
    assert again == {**metrics, "already_finished": True}


def test_a_users_mistake_found_by_a_worker_reaches_the_driver_at_once(tmp_path):
    from emi_ray.training import ray_worker

    workspace = planted_workspace(tmp_path, num_train=8, num_val=0)
    with pytest.raises(UserError, match="val split has no labelled clips"):
        ray_worker.train(workspace, load_recipe("text"), WorkspaceConfig())
