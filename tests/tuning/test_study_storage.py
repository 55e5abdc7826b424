import multiprocessing
import os
import signal
import subprocess
import sys

import pytest
from tuning_studies import open_study, run_made_up, settings_of

from emi_ray.errors import UserError
from emi_ray.tuning import storage
from emi_ray.tuning.settings import claim_settings
from emi_ray.workspace import Workspace


def hold(root: str, held, url: str | None) -> None:
    with open_study(Workspace(root), storage=url) as study:
        study.ask()
        held.set()
        signal.pause()


@pytest.fixture(params=["journal", "database"])
def driver(request, tmp_path, monkeypatch):
    """Another process that drives the study, and where the study is."""
    monkeypatch.setattr(storage, "_SETTLE_S", 0.05)
    monkeypatch.setattr(storage, "_BEAT_EVERY_S", 0.5)
    url = None if request.param == "journal" else f"sqlite:///{tmp_path}/studies.db"
    context = multiprocessing.get_context("fork")
    held = context.Event()
    process = context.Process(target=hold, args=(str(tmp_path), held, url), daemon=True)
    process.start()
    assert held.wait(60)
    yield process, Workspace(str(tmp_path)), url
    process.kill()
    process.join()


def test_a_second_driver_is_refused_and_a_dead_ones_study_is_taken_over(driver, monkeypatch):
    process, workspace, url = driver
    with (
        pytest.raises(UserError, match=f"in progress in process {process.pid}"),
        open_study(workspace, storage=url),
    ):
        pass
    monkeypatch.setattr(storage, "_SILENT_FOR_S", 0.0)
    if (
        url is not None
    ):  # with the clock of the second machine far ahead, the living driver is noticed by its beats
        with (
            pytest.raises(UserError, match=f"in progress in process {process.pid}"),
            open_study(workspace, storage=url),
        ):
            pass
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    monkeypatch.setattr(storage, "_BEAT_EVERY_S", 0.05)
    with open_study(workspace, storage=url) as study:
        assert study.counts.lost == 1
        run_made_up(study, 2)
    with open_study(workspace, storage=url) as study:
        assert study.counts.finished == 2


TAKEN_OVER = """
import sys, time
from emi_ray.errors import EmiRayError
from emi_ray.tuning import storage
from emi_ray.workspace import Workspace
storage._SETTLE_S, storage._BEAT_EVERY_S = 0.05, 0.1
owner = {"driver": "process 2 on elsewhere", "token": "other", "time": time.time()}
folder = sys.argv[1]
try:
    with storage.driving(Workspace(folder), "s", ["maximize"], f"sqlite:///{folder}/s.db") as held:
        for _ in range(60):  # once may come between its reading and its writing
            held.set_user_attr(storage.OWNER, owner)
            time.sleep(1)
except EmiRayError as error:
    print(error)
"""


def test_a_driver_whose_study_in_a_database_was_taken_over_is_ended(tmp_path):
    # In a process of its own: the interruption is a signal, which would also end a process of tests.
    command = [sys.executable, "-c", TAKEN_OVER, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=55)
    assert "Study s was taken over by process 2 on elsewhere" in ended.stdout, ended.stderr


def test_a_line_that_a_dying_driver_tore_is_cut_off(tmp_path):
    workspace = Workspace(str(tmp_path))
    with open_study(workspace) as study:
        run_made_up(study, 2)
    with storage.journal_path(workspace, "s").open("ab") as journal:
        journal.write(b'{"op_code":4,"worker_id":"x"')
    with open_study(workspace) as study:
        run_made_up(study, 1)
    with open_study(workspace) as study:
        assert study.counts.finished == 3


def test_a_study_behind_a_uri_needs_a_database(tmp_path):
    with pytest.raises(UserError, match="--storage"):
        storage.open_storage(Workspace("mock://bucket/work"), "s", None)


def test_a_database_that_is_none_is_refused():
    with pytest.raises(UserError, match="postgresql://"):
        storage.open_storage(Workspace("work"), "s", "not a url")


def test_a_study_is_continued_only_under_its_own_settings(tmp_path):
    workspace = Workspace(str(tmp_path))
    with open_study(workspace) as study:
        claim_settings(workspace, study.optuna, settings_of())
        claim_settings(workspace, study.optuna, settings_of())
        with pytest.raises(UserError, match="another metric, so scores of new trials"):
            claim_settings(workspace, study.optuna, settings_of(metric="val_ccc"))


def test_a_study_of_another_workspace_in_the_same_database_is_not_taken_for_ones_own(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "_SETTLE_S", 0.05)
    url, other = f"sqlite:///{tmp_path}/studies.db", settings_of().model_copy(update={"data_key": "other"})
    with open_study(Workspace(str(tmp_path / "one")), storage=url) as study:
        claim_settings(Workspace(str(tmp_path / "one")), study.optuna, settings_of())
    with open_study(Workspace(str(tmp_path / "two")), storage=url) as study:
        with pytest.raises(UserError, match="in its database was started with another set of clips"):
            claim_settings(Workspace(str(tmp_path / "two")), study.optuna, other)
        claim_settings(Workspace(str(tmp_path / "two")), study.optuna, settings_of())
