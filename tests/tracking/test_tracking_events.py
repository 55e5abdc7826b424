"""Events that trackers receive from runs and trials; an error of a tracker ends no run."""

import dataclasses
import importlib.util
import logging

import pytest

from emi_ray import tracking as package
from emi_ray.errors import UserError
from emi_ray.events import count, tell
from emi_ray.tracking import tracking
from emi_ray.workspace import Workspace

SETTINGS = {"name": "f2", "training": {"lr": 1e-3, "patience": None}, "title": "F2"}
EPOCH = {"stage": "text", "epoch": 1, "train_loss": 0.5, "val_loss": 0.6, "val_pearson": 0.25, "lr": 1e-3}


class Recorder:
    """A tracker that keeps what it is told, as lists that begin with the name of the run."""

    def __init__(self, breaks: tuple[str, ...] = ()) -> None:
        self.begun, self.epochs, self.ended, self.breaks, self.calls = [], [], [], breaks, 0

    def _call(self, name):
        self.calls += 1
        if name in self.breaks:
            raise ConnectionError("the server is gone\nand more")

    def begin(self, run):
        self._call("begin")
        self.begun.append(dataclasses.astuple(run))

    def log(self, run, stage, epoch, values):
        self._call("log")
        self.epochs.append((run.name, stage, epoch, dict(values)))

    def end(self, run, state, scores):
        self._call("end")
        self.ended.append((run.name, state, dict(scores)))

    def close(self):
        self._call("close")


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace(str(tmp_path / "w"))


@pytest.fixture
def recorders(monkeypatch):
    """Makes ``tracking`` build recorders; yields those that were built, by name."""
    made: dict[str, Recorder] = {}

    def maker(name: str, breaks: tuple[str, ...] = ()):
        return lambda workspace: made.setdefault(name, Recorder(breaks))

    monkeypatch.setitem(package.TRACKERS, "wandb", (maker("wandb"), "json", "json"))
    monkeypatch.setitem(
        package.TRACKERS, "mlflow", (maker("mlflow", ("begin", "log", "end", "close")), "json", "json")
    )
    return made


def begin(run: str = "f2/42") -> None:
    recipe, _, seed = run.partition("/")
    count("run_began", run=run, recipe=recipe, seed=int(seed), settings=SETTINGS)


def epoch(job: str, **values: object) -> None:
    row = {**EPOCH, **values}
    count("epoch", run=job, stage=row["stage"], epoch=row["epoch"], score=row["val_pearson"], values=row)


def finish(run: str = "f2/42", **scores: object) -> None:
    count("run_scores", run=run, scores={"val_pearson": 0.5, "recipe": "f2", "stages": {"text": scores}})
    tell("run_finished", run=run, val_pearson=0.5)


def test_a_run_is_told_with_settings_epochs_of_each_stage_and_final_scores(workspace, recorders):
    with tracking(workspace, ["wandb"]):
        begin()
        epoch("f2/42 text")
        epoch("f2/42", stage="fusion", val_pearson=float("nan"))
        finish(val_pearson=0.25, reused=True)
    found = recorders["wandb"]
    settings = {"name": "f2", "training.lr": 1e-3, "title": "F2", "seed": 42}
    assert found.begun == [("f2/42", "f2", settings, {"recipe": "f2", "seed": "42"})]
    values = {"train_loss": 0.5, "val_loss": 0.6, "val_pearson": 0.25, "lr": 1e-3}
    no_score = {name: value for name, value in values.items() if name != "val_pearson"}
    assert found.epochs == [("f2/42", "text", 1, values), ("f2/42", "fusion", 1, no_score)]
    assert found.ended == [("f2/42", "finished", {"val_pearson": 0.5, "stages.text.val_pearson": 0.25})]


def test_epochs_that_were_not_told_live_come_from_the_history_of_the_run_and_none_twice(workspace, recorders):
    history = "stage,epoch,val_pearson\ntext,1,0.25\ntext,2,0.375\nfusion,1,0.5\n"
    for run in ("f2/42", "f2/43"):
        workspace.write_text(f"runs/{run}/history.csv", history)
    with tracking(workspace, ["wandb"]):
        begin("f2/42")
        begin("f2/43")
        epoch("f2/42 text (+1)", epoch=1)
        epoch("f2/43", stage="fusion", epoch=1)
        finish("f2/42")
        finish("f2/43")
    told = [each[:3] for each in recorders["wandb"].epochs]
    wanted = [("text", 1), ("text", 2), ("fusion", 1)]
    assert sorted(told) == sorted((run, *each) for run in ("f2/42", "f2/43") for each in wanted)


def test_trials_and_the_runs_of_a_search_are_grouped_by_its_study(workspace, recorders):
    with tracking(workspace, ["wandb"], study="s"):
        count(
            "trial_result",
            study="s",
            trial=3,
            state="pruned",
            metric="val_ccc",
            settings={"training.lr": 0.5},
            steps={1: 0.125, 2: 0.25},
            scores={},
        )
        begin("best/42")
        finish("best/42")
    found = recorders["wandb"]
    assert [run[:2] for run in found.begun] == [("s/trial-3", "s"), ("best/42", "s")]
    assert found.begun[1][3] == {"recipe": "best", "seed": "42", "study": "s"}
    assert found.epochs == [
        ("s/trial-3", "trial", 1, {"val_ccc_so_far": 0.125}),
        ("s/trial-3", "trial", 2, {"val_ccc_so_far": 0.25}),
    ]
    assert [each[:2] for each in found.ended] == [("s/trial-3", "pruned"), ("best/42", "finished")]


def test_failed_and_interrupted_runs_are_told_as_such(workspace, recorders):
    with tracking(workspace, ["wandb"]):
        for seed in (1, 2):
            begin(f"f2/{seed}")
            epoch(f"f2/{seed} text")
        tell("run_failed", run="f2/1", reason="no memory")
    assert recorders["wandb"].ended == [("f2/1", "failed", {}), ("f2/2", "interrupted", {})]


def test_a_tracker_that_fails_is_warned_of_and_switched_off_and_the_others_go_on(
    workspace, recorders, caplog
):
    with caplog.at_level(logging.WARNING, "emi_ray.tracking"), tracking(workspace, ["mlflow", "wandb"]):
        begin()
        for number in range(1, 10):
            epoch("f2/42 text", epoch=number)
        finish()
    assert len(recorders["wandb"].epochs) == 9
    assert recorders["mlflow"].calls == 4  # the last one closes it
    first, last = (record.getMessage() for record in caplog.records)
    assert first == "The tracker mlflow failed: ConnectionError: the server is gone. Training goes on."
    assert last.startswith("The tracker mlflow failed 3 times in a row and is switched off")


def test_epochs_that_a_tracker_did_not_take_are_sent_again_when_the_run_ends(
    workspace, recorders, monkeypatch
):
    workspace.write_text("runs/f2/42/history.csv", "stage,epoch,val_pearson\ntext,1,0.25\ntext,2,0.25\n")
    with tracking(workspace, ["wandb"]):
        found = recorders["wandb"]
        found.breaks = ("log",)
        begin()
        epoch("f2/42 text", epoch=1)
        epoch("f2/42 text", epoch=2)
        while found.calls < 3:  # begin and two epochs, in the trackers' thread
            pass
        found.breaks = ()
        finish()
    assert [each[1:3] for each in found.epochs] == [("text", 1), ("text", 2)]


def test_a_tracker_whose_package_is_missing_is_named_with_the_remedy(workspace, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    says = r"mlflow needs the package mlflow-skinny, which is not installed: pip install mlflow-skinny"
    with pytest.raises(UserError, match=says), tracking(workspace, ["mlflow"]):
        pytest.fail("the block must not begin")


def test_without_trackers_nothing_is_imported_and_nothing_is_written(workspace):
    with tracking(workspace, ()):
        begin()
    assert not workspace.folders("")
