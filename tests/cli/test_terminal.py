"""What ``-v`` and ``-q`` show, and that the place of the log file is printed."""

import logging

import pytest

from emi_ray.cli import main, terminal
from emi_ray.cli.terminal import Verbosity, flags_first, set_verbosity, warn
from emi_ray.config import WorkspaceConfig
from emi_ray.events import count, tell
from emi_ray.workspace import Workspace


@pytest.fixture(autouse=True)
def _normal_afterwards():
    yield
    set_verbosity(Verbosity.NORMAL)


def say_everything():
    terminal.console.print("a result")
    warn("few clips")
    tell("run_finished", run="f2/1", val_pearson=0.25)
    count("epoch", run="f2/1", score=0.125)
    logging.getLogger("emi_ray.runtime.nodes").info("Waiting for 2 nodes.")
    logging.getLogger("emi_ray.ray").warning("a block was lost at s3://KEY:topsecret@bucket")
    forwarded = logging.LogRecord("ray.data", logging.WARNING, "file", 1, "a block was lost there", (), None)
    logging.getLogger("emi_ray.ray").handle(forwarded)


RESULT, WARNING, NODES = "a result", "Warning: few clips", "Waiting for 2 nodes."
EVENT, RAY, EPOCH = "run_finished: run f2/1", "a block was lost", "epoch: run f2/1, score 0.125"


@pytest.mark.parametrize(
    ("verbosity", "shown"),
    [
        (Verbosity.QUIET, {WARNING}),
        (Verbosity.NORMAL, {RESULT, WARNING, NODES}),
        (Verbosity.VERBOSE, {RESULT, WARNING, NODES, EVENT, RAY}),
        (Verbosity.DEBUG, {RESULT, WARNING, NODES, EVENT, RAY, EPOCH}),
    ],
)
def test_each_verbosity_shows_more_than_the_one_below(verbosity, shown, capsys):
    set_verbosity(verbosity)
    say_everything()
    written = "".join(capsys.readouterr())
    assert {text for text in (RESULT, WARNING, NODES, EVENT, RAY, EPOCH) if text in written} == shown
    assert "topsecret" not in written


def test_results_are_on_standard_output_and_all_else_on_standard_error(capsys):
    set_verbosity(Verbosity.NORMAL)
    say_everything()
    assert capsys.readouterr().out.split("\n") == [RESULT, ""]


@pytest.mark.parametrize(
    "arguments", [["-q", "recipes"], ["recipes", "--quiet"], ["recipes", "-q"], ["--quiet", "recipes"]]
)
def test_quiet_may_stand_before_or_behind_the_verb(arguments, capsys):
    with pytest.raises(SystemExit) as ending:
        main(arguments)
    assert ending.value.code == 0
    assert "".join(capsys.readouterr()) == ""


def test_only_flags_are_moved_and_nothing_behind_two_dashes():
    assert flags_first(["train", "f2", "-v", "-w", "work", "--", "-q"]) == [
        "-v",
        "train",
        "f2",
        "-w",
        "work",
        "--",
        "-q",
    ]


def test_verbose_and_quiet_together_are_the_users_mistake(capsys):
    with pytest.raises(SystemExit) as ending:
        main(["recipes", "-v", "-q"])
    assert ending.value.code == 2
    assert "exclude each other" in capsys.readouterr().err


def test_the_place_of_the_log_file_is_printed_once_and_not_when_quiet(tmp_path, capsys):
    workspace = Workspace(str(tmp_path))
    workspace.write_config(WorkspaceConfig())
    with pytest.raises(SystemExit):
        main(["extract", "-w", workspace.root])  # there are no clips
    (path,) = workspace.files("logs")
    assert capsys.readouterr().err.count(f"Log file: {workspace.shown(path)}") == 1
    with pytest.raises(SystemExit):
        main(["extract", "-q", "-w", workspace.root])
    assert "Log file" not in capsys.readouterr().err


def test_text_is_printed_as_it_is(capsys):
    path = "/data/[bold]/" + "a long folder/" * 12 + "report.html"
    terminal.Terminal().print(path)
    assert capsys.readouterr().out == path + "\n"
