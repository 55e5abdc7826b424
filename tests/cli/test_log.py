import json
import logging

import pytest

from emi_ray.cli import log, main
from emi_ray.cli.log import LOG, begin_log, end_log
from emi_ray.config import WorkspaceConfig
from emi_ray.events import count, tell
from emi_ray.workspace import Workspace


@pytest.fixture
def workspace(tmp_path):
    made = Workspace(str(tmp_path))
    made.write_config(WorkspaceConfig())
    end_log(0)  # a test that calls a verb without main() leaves its log open in this process
    return made


def entries(workspace):
    (path,) = workspace.files("logs")
    return [json.loads(line) for line in workspace.read_text(path).splitlines()]


def test_a_long_command_logs_how_it_began_and_ended(workspace):
    with pytest.raises(SystemExit):
        main(["extract", "-w", workspace.root])  # there are no clips
    first, *_, last = entries(workspace)
    assert first["message"].startswith("began: ")
    assert last["message"].startswith("ended with exit code 2: Error: ")
    assert not LOG.handlers or not any(isinstance(handler, log.WorkspaceLog) for handler in LOG.handlers)


def test_what_ray_warns_of_is_in_the_log_with_its_traceback_and_without_secrets(workspace):
    begin_log("train", workspace.root)
    try:
        raise RuntimeError("s3://KEY:topsecret@bucket/x is gone")
    except RuntimeError:
        logging.getLogger("emi_ray.ray").exception("a block was lost")
    end_log(0)
    entry = next(entry for entry in entries(workspace) if entry["message"] == "a block was lost")
    assert entry["level"] == "error"
    assert "s3://bucket/x is gone" in entry["traceback"]
    assert "topsecret" not in json.dumps(entries(workspace))


def test_a_short_verb_and_a_place_without_a_workspace_are_not_logged(workspace, tmp_path):
    begin_log("recipes", workspace.root)
    begin_log("extract", str(tmp_path / "nothing"))
    end_log(0)
    assert not workspace.files("logs")
    assert not (tmp_path / "nothing").exists()


def test_a_workspace_that_cannot_be_opened_is_the_users_mistake_and_nothing_else(capsys):
    with pytest.raises(SystemExit) as ending:
        main(["run", "f2", "-w", "s3:/bucket/x", "--corpus", "table", "--source", "clips.csv"])
    assert ending.value.code == 2
    assert "two slashes" in capsys.readouterr().err


def test_events_are_in_the_log_with_their_fields_and_counts_are_not(workspace):
    begin_log("extract", workspace.root)
    tell("clip_quarantined", clip_id="c1", stage="audio", reason="s3://KEY:topsecret@bucket/x cannot be read")
    count("clips", stage="audio", status="ok", count=3)
    end_log(0)
    found = [entry for entry in entries(workspace) if "event" in entry]
    fields = {"clip_id": "c1", "stage": "audio", "reason": "s3://bucket/x cannot be read"}
    assert [(entry["event"], entry["fields"]) for entry in found] == [("clip_quarantined", fields)]


def test_a_full_log_still_says_how_the_command_ended_and_how_much_was_left_out(workspace, monkeypatch):
    monkeypatch.setattr(log, "_MAX_LINES", 3)
    begin_log("extract", workspace.root)
    for index in range(7):
        tell("clip_quarantined", clip_id=f"c{index}")
    end_log(1, "the disk is full")
    *others, last = entries(workspace)
    assert len(others) == 3
    assert last["message"] == ("ended with exit code 1: the disk is full; 5 events above 3 were not written")
