"""Each tracker with its own library, reading back what was written. Those whose package is missing are skipped."""

import sys
import time
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
from planted import planted_workspace

from emi_ray.config import WorkspaceConfig
from emi_ray.errors import UserError
from emi_ray.recipe.loading import load_recipe
from emi_ray.tracking import tracking
from emi_ray.tracking.mlflow_tracker import MlflowTracker
from emi_ray.tracking.tensorboard_tracker import FOLDER, TensorboardTracker
from emi_ray.tracking.tracker import TrackedRun
from emi_ray.tracking.wandb_tracker import WandbTracker
from emi_ray.workspace import Workspace

RUN = TrackedRun(
    "f2/42", "f2", {"training.lr": 1e-3, "title": "F2", "training.amp": True}, {"recipe": "f2", "seed": "42"}
)


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace(str(tmp_path / "w"))


def tell_one_run(tracker) -> None:
    tracker.begin(RUN)
    tracker.log(RUN, "text", 1, {"val_pearson": 0.25})
    tracker.log(RUN, "text", 2, {"val_pearson": 0.5})
    tracker.end(RUN, "finished", {"val_pearson": 0.5})
    tracker.close()


def scalars_of(workspace: Workspace, run: str) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(workspace.path(f"{FOLDER}/{run}"))
    events.Reload()
    return {
        tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }


def test_tensorboard_has_epochs_by_score_and_stage_and_the_final_scores(workspace):
    for _ in range(2):  # the second training replaces the first
        tell_one_run(TensorboardTracker(workspace))
    assert scalars_of(workspace, "f2/42") == {
        "val_pearson/text": [(1, 0.25), (2, 0.5)],
        "final/val_pearson": [(0, 0.5)],
    }
    assert len(workspace.files(f"{FOLDER}/f2/42")) == 1


def test_mlflow_has_the_run_in_a_database_of_the_workspace(workspace, monkeypatch):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tell_one_run(MlflowTracker(workspace))
    client = MlflowClient(tracking_uri=f"sqlite:///{workspace.path('tracking/mlflow.db')}")
    experiment = client.get_experiment_by_name("emi_ray")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params == {"training.lr": "0.001", "title": "F2", "training.amp": "True"}
    assert run.data.tags["recipe"] == "f2"
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "text/val_pearson")
    assert [(each.step, each.value) for each in history] == [(1, 0.25), (2, 0.5)]
    assert run.data.metrics["val_pearson"] == 0.5


def test_wandb_writes_a_run_offline(workspace, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_DIR", raising=False)
    tell_one_run(WandbTracker(workspace))
    (path,) = Path(workspace.path("tracking/wandb")).glob("offline-run-*/*.wandb")
    texts = (b"f2/42", b"training.lr", b"text/val_pearson", b"text/epoch")
    deadline = time.monotonic() + 60
    while not all(text in path.read_bytes() for text in texts):  # a process of W&B writes it
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_wandb_is_told_in_its_own_words(workspace, monkeypatch):
    """With a stand-in for the library, so that this is tested where it is not installed too."""
    run = MagicMock(summary={})
    library = SimpleNamespace(init=MagicMock(return_value=run), Settings=dict, login=lambda prompt: True)
    monkeypatch.setitem(sys.modules, "wandb", library)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    tell_one_run(WandbTracker(workspace))
    asked = library.init.call_args.kwargs
    assert (asked["project"], asked["name"], asked["group"]) == ("emi_ray", "f2/42", "f2")
    assert asked["config"] == dict(RUN.settings)
    assert asked["dir"] == workspace.path("tracking")
    assert [call.args[0] for call in run.log.call_args_list] == [
        {"text/epoch": 1, "text/val_pearson": 0.25},
        {"text/epoch": 2, "text/val_pearson": 0.5},
    ]
    assert run.summary == {"val_pearson": 0.5, "state": "finished"}
    run.finish.assert_called_once_with(exit_code=0)


def test_wandb_that_would_ask_for_a_key_is_the_users_mistake(workspace, monkeypatch, tmp_path):
    pytest.importorskip("wandb")
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(UserError, match="WANDB_MODE=offline"):
        WandbTracker(workspace)


def test_files_that_cannot_lie_in_an_object_store_are_refused_with_the_remedy(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Workspace, "is_local", False)
    behind = Workspace("/anywhere")
    with pytest.raises(UserError, match="set MLFLOW_TRACKING_URI"):
        MlflowTracker(behind)
    with pytest.raises(UserError, match="set WANDB_DIR"):
        WandbTracker(behind)


def test_tensorboard_files_of_an_object_store_are_copied_when_a_run_ends(workspace, monkeypatch):
    monkeypatch.setattr(Workspace, "is_local", False)
    tracker = TensorboardTracker(workspace)
    written: dict[str, bytes] = {}
    monkeypatch.setattr(Workspace, "write_bytes", lambda self, path, data: written.update({path: data}))
    tell_one_run(tracker)
    (path,) = written
    assert path.startswith(f"{FOLDER}/f2/42/events.out.")
    assert b"final/val_pearson" in written[path]


@pytest.mark.slow
def test_trained_runs_are_tracked_with_all_epochs_of_all_stages(tmp_path, ray_session):
    from emi_ray.training.runs import RunRequest, train_runs

    workspace = planted_workspace(tmp_path, num_train=48, num_val=24)
    small = [f"encoders.{name}.hidden=8" for name in ("text", "audio", "vision")]
    recipe = load_recipe("f1", [*small, "fusion.hidden=8", "training.epochs=2"])
    config = WorkspaceConfig(tracking=("tensorboard",))
    requests = [RunRequest(recipe, 1), RunRequest(recipe.model_copy(update={"name": "again"}), 1)]
    with tracking(workspace, config.tracking):
        results = train_runs(workspace, requests, config)  # the second shares the encoders of the first
    for result in results:
        found = scalars_of(workspace, f"{result.recipe.name}/1")
        assert {
            f"val_pearson/{stage}": [step for step, _ in found[f"val_pearson/{stage}"]]
            for stage in ("text", "audio", "vision", "fusion")
        } == {f"val_pearson/{stage}": [1, 2] for stage in ("text", "audio", "vision", "fusion")}
        assert found["final/val_pearson"][0][1] == pytest.approx(result.metrics["val_pearson"], abs=1e-6)
