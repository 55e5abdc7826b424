"""Many runs at once: shared work is done once, a failure is reported alone, and a killed process is replaced."""

import contextlib
import os
import signal
import threading

import pytest
from planted import planted_workspace

from emi_ray.config import WorkspaceConfig
from emi_ray.errors import UserError
from emi_ray.recipe.loading import load_recipe
from emi_ray.training.plan import plan_run
from emi_ray.training.run import execute_run
from emi_ray.workspace import CLIPS

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session")]

SMALL = [f"encoders.{m}.hidden=16" for m in ("text", "audio", "vision")]
F1 = ["fusion.hidden=16", *SMALL, "training.epochs=6"]
TEXT = ["encoders.text.hidden=16", "training.epochs=2"]


def requests_of(*runs):
    from emi_ray.training.runs import RunRequest

    return [RunRequest(recipe, seed) for recipe, seed in runs]


def kill_processes_named(*names):
    """Kill the descendants of this process whose command line has one of the names; return how many were killed."""
    import psutil

    killed = 0
    for process in psutil.Process(os.getpid()).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # some end meanwhile
            if any(name in " ".join(process.cmdline()) for name in names):
                process.send_signal(signal.SIGKILL)
                killed += 1
    return killed


def test_a_killed_process_is_repeated_and_ends_as_a_run_without_ray(tmp_path):
    from emi_ray.training.runs import train_runs

    # The driver gets the scores every .3 s. Stages of 40 epochs take longer, so they are killed before their end.
    recipe = load_recipe("f1", [*F1, "training.epochs=40"])
    workspace = planted_workspace(tmp_path / "a", num_train=48, num_val=24)
    killed = set()

    def watch(job, scores):
        # Once in the first stage of an encoder, once in the fusion.
        is_due = (
            scores["stage"] in ("vision", "fusion") and scores["stage"] not in killed and scores["epoch"] > 1
        )
        if is_due and kill_processes_named("ray::train "):
            killed.add(scores["stage"])

    [result] = train_runs(
        workspace, requests_of((recipe, 42)), WorkspaceConfig(), on_progress=watch, checkpoint_every_s=0
    )
    assert killed == {"vision", "fusion"}
    undisturbed = planted_workspace(tmp_path / "b", num_train=48, num_val=24)
    expected = execute_run(plan_run(undisturbed, recipe, WorkspaceConfig(), 42))
    assert result.problem is None
    assert result.metrics["val_pearson"] == pytest.approx(expected["val_pearson"], abs=1e-6)
    assert not workspace.files("checkpoints")
    assert result.metrics["node"]
    assert result.metrics["gpus"] == []
    assert not any(stage["reused"] for stage in result.metrics["stages"].values())

    [again] = train_runs(workspace, requests_of((recipe, 42)), WorkspaceConfig())
    assert again.metrics == {**result.metrics, "already_finished": True}


def test_no_training_of_an_interrupted_command_goes_on_in_its_session(tmp_path):
    from emi_ray.training.runs import train_runs

    def interrupt(job, scores):
        raise KeyboardInterrupt

    workspace = planted_workspace(tmp_path, num_train=48, num_val=24)
    recipe = load_recipe(
        "text", ["encoders.text.hidden=16", "training.epochs=20000", "training.patience=null"]
    )
    with pytest.raises(KeyboardInterrupt):
        train_runs(workspace, requests_of((recipe, 1)), WorkspaceConfig(), on_progress=interrupt)
    assert not kill_processes_named("ray::train ")
    assert not workspace.exists("runs/text/1/metrics.json")


def test_data_that_changed_since_the_plan_are_refused(tmp_path):
    workspace = planted_workspace(tmp_path, num_train=24, num_val=12)
    plan = plan_run(workspace, load_recipe("text", TEXT), WorkspaceConfig(), 1)
    table, store = workspace.clips(), plan.stores["text"]
    plan.read_data()
    workspace.write_table(CLIPS, table.slice(1))
    with pytest.raises(UserError, match="The corpus has changed since run text/1 was planned"):
        plan.read_data()
    workspace.write_table(CLIPS, table)
    record = store.held.record()
    store.held.discard(record.slice(3, 1))
    with pytest.raises(UserError, match="The features of 'text' have changed since run text/1 was planned"):
        execute_run(plan)
    from emi_ray.training.runs import train_runs

    [result] = train_runs(workspace, requests_of((load_recipe("text", TEXT), 1)), WorkspaceConfig())
    assert result.problem is None  # planned anew


def test_a_run_whose_encoder_was_lost_says_so(tmp_path):
    from ray.exceptions import RayTaskError, WorkerCrashedError

    from emi_ray.training.parallel_runs import _problem

    workspace = planted_workspace(tmp_path, num_train=8, num_val=4)
    plan = plan_run(workspace, load_recipe("text", TEXT), WorkspaceConfig(), 42)
    lost = RayTaskError("train", "a traceback", WorkerCrashedError())
    message = str(_problem(plan, lost))
    assert "an encoder or features that it needs were lost" in message
    assert "WorkerCrashedError" in message


def test_an_encoder_that_runs_share_is_trained_once_and_a_mistake_in_one_run_leaves_the_others(tmp_path):
    from emi_ray.training.runs import train_runs

    workspace = planted_workspace(tmp_path, num_train=48, num_val=24)
    text = load_recipe("text", TEXT)
    f1 = load_recipe("f1", [*TEXT, "fusion.hidden=16", *SMALL])
    wrong = load_recipe("audio", ["encoders.audio.features=nothing-of-that-name"])
    epochs = []
    results = train_runs(
        workspace,
        requests_of((text, 42), (f1, 42), (wrong, 42), (text, 43)),
        WorkspaceConfig(),
        on_progress=lambda job, scores: epochs.append((scores["stage"], job)),
    )
    assert [result.problem is None for result in results] == [True, True, False, True]
    assert isinstance(results[2].problem, UserError)
    assert "nothing-of-that-name" in str(results[2].problem)
    # Two epochs with seed 42, which `text` and `f1` share, and two with seed 43.
    assert len([job for stage, job in epochs if stage == "text"]) == 4
    assert results[0].metrics["stages"]["text"] == results[1].metrics["stages"]["text"]
    assert len(workspace.files("encoders/text")) == 2


def test_a_users_mistake_found_by_a_worker_reaches_the_driver_at_once(tmp_path):
    from emi_ray.training.runs import train_runs

    workspace = planted_workspace(tmp_path, num_train=8, num_val=0)
    [result] = train_runs(workspace, requests_of((load_recipe("text"), 42)), WorkspaceConfig())
    assert isinstance(result.problem, UserError)
    assert "val split has no labelled clips" in str(result.problem)


def test_a_run_that_is_asked_for_twice_is_refused(tmp_path):
    from emi_ray.training.runs import train_runs

    workspace = planted_workspace(tmp_path, num_train=24, num_val=12)
    text = load_recipe("text", TEXT)
    first, second = train_runs(workspace, requests_of((text, 42), (text, 42)), WorkspaceConfig())
    assert first.problem is None
    assert "asked for twice" in str(second.problem)


def test_several_workers_of_one_run_resume_after_a_kill_under_ray_train(tmp_path):
    from emi_ray.training.runs import train_runs

    workspace = planted_workspace(tmp_path / "a", num_train=48, num_val=24)
    recipe = load_recipe("text", ["encoders.text.hidden=16", "training.epochs=6"])
    killed = threading.Event()

    def watch(job, scores):
        if scores["epoch"] > 2 and not killed.is_set() and kill_processes_named("RayTrainWorker"):
            killed.set()

    [result] = train_runs(
        workspace, requests_of((recipe, 42)), WorkspaceConfig(), num_workers=2, on_progress=watch
    )
    assert killed.is_set()
    undisturbed = planted_workspace(tmp_path / "b", num_train=48, num_val=24)
    expected = execute_run(plan_run(undisturbed, recipe, WorkspaceConfig(), 42))
    assert result.metrics["val_pearson"] == pytest.approx(expected["val_pearson"], abs=1e-5)
    assert result.metrics["num_workers"] == 2
    assert not workspace.files("runs/text/42/ray", recursive=True)


def test_metrics_name_the_gpus_of_the_encoders_too():
    from emi_ray.training.plan import Location
    from emi_ray.training.stages.encoder_job import EncoderDone, earlier_of

    done = [
        EncoderDone("text", False, Location("a", ("0",)), started=5.0, seconds=2.0),
        EncoderDone("audio", False, Location("a", ("1",)), started=4.0, seconds=3.0),
        EncoderDone("vision", True, Location("a", ("2",)), started=1.0, seconds=9.0),
    ]
    earlier = earlier_of(done)
    assert earlier.trained == {"text": Location("a", ("0",)), "audio": Location("a", ("1",))}
    assert (earlier.started, earlier.seconds) == (4.0, 5.0)


def test_a_run_that_ray_train_gives_up_says_the_cause_and_no_traceback():
    from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
    from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

    from emi_ray.training.ray_train import _cause_of

    told = "Traceback (most recent call last):\n  File a\nKeyError: 'x'\n"
    group = WorkerGroupError("[Rank 1]\n" + told, {1: UserExceptionWithTraceback(KeyError("x"), told)})
    assert _cause_of(group).endswith("KeyError: 'x'")
    assert "Traceback" not in _cause_of(group)
    assert _cause_of(ControllerError(ValueError("no placement"))) == "ValueError: no placement"


def test_a_run_on_gpus_stays_on_them_after_the_loss_of_a_node(monkeypatch):
    import ray

    from emi_ray.training import ray_train

    class DyingNodes:
        died = ("10.0.0.2",)

        def await_fate(self):
            pass

    class Trainer:
        def fit(self):
            if len(chosen) == 1:
                raise ray.train.TrainingFailedError("lost")

    gpus, chosen = iter([2.0, 1.0]), []
    monkeypatch.setattr(ray_train, "NodeWatch", DyingNodes)
    monkeypatch.setattr(ray_train.ray, "cluster_resources", lambda: {"GPU": next(gpus)})
    monkeypatch.setattr(
        ray_train, "_trainer", lambda job, workers, on_gpus: (chosen.append(on_gpus), Trainer())[1]
    )
    ray_train._fit(None, 2)
    assert chosen == [True, True]
