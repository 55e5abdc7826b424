import json
import time
import urllib.error
import urllib.request

import pytest
from tuning_studies import open_study, run_made_up

from emi_ray.errors import UserError
from emi_ray.tuning.dashboard import HOST, EventFiles, find_study, free_port, serve_study
from emi_ray.workspace import Workspace

HISTORY = "stage,epoch,train_loss,val_pearson\ntext,1,0.9,0.1\ntext,2,0.8,0.2\nfusion,1,0.7,\n"


def fetch(url: str) -> dict:
    for _ in range(150):
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return json.load(answer)
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
    raise AssertionError(f"{url} does not answer")


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace(str(tmp_path))


def test_the_dashboard_shows_a_study_while_it_runs(workspace):
    port = free_port(21500)
    with open_study(workspace) as study:
        server = serve_study(workspace, "s", None, port)
        try:
            names = [
                each["study_name"] for each in fetch(f"http://{HOST}:{port}/api/studies")["study_summaries"]
            ]
            assert names == ["s"]
            run_made_up(study, 3)
            study.ask()
            trials = fetch(f"http://{HOST}:{port}/api/studies/0?after=0")["trials"]
            assert [trial["state"] for trial in trials] == ["Complete"] * 3 + ["Running"]
        finally:
            server.terminate()
            server.join()


def test_runs_become_tensorboards_events_once_and_again_when_they_change(workspace, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    workspace.write_text("runs/f1/42/history.csv", HISTORY)
    events = EventFiles(workspace, tmp_path / "events")
    assert [events.refresh(), events.refresh()] == [1, 0]
    read = EventAccumulator(str(tmp_path / "events/f1/42"))
    read.Reload()
    assert sorted(read.Tags()["scalars"]) == ["train_loss/fusion", "train_loss/text", "val_pearson/text"]
    assert [(each.step, round(each.value, 4)) for each in read.Scalars("val_pearson/text")] == [
        (1, 0.1),
        (2, 0.2),
    ]
    workspace.write_text("runs/f1/42/history.csv", HISTORY + "fusion,2,0.6,0.3\n")
    assert events.refresh() == 1
    assert len(list((tmp_path / "events/f1/42").iterdir())) == 1


def test_the_study_that_changed_last_is_shown(workspace):
    assert find_study(workspace, None) is None
    for name in ("older", "newer"):
        workspace.write_text(f"studies/{name}/journal.log", "")
        time.sleep(0.02)
    assert find_study(workspace, None) == "newer"
    assert find_study(workspace, "older") == "older"
    with pytest.raises(UserError, match="did you mean 'older'"):
        find_study(workspace, "oldr")
