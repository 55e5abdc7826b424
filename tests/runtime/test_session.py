"""A local session on a machine that is too busy for Ray to start in time, and what its errors become."""

import logging
import os
import sys

import pytest
import ray

from emi_ray.errors import EmiRayError
from emi_ray.runtime import results_of, session
from emi_ray.runtime.ray_errors import in_a_sentence

SLOW = "The current node timed out during startup. This could happen because …"


def starting(monkeypatch: pytest.MonkeyPatch, *outcomes: Exception | None) -> list[dict]:
    """Ray's start ends thus, one after the other; returns the calls."""
    calls: list[dict] = []
    left = list(outcomes)

    def init(**options):
        calls.append(options)
        if (error := left.pop(0)) is not None:
            raise error

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    return calls


def test_a_start_that_is_too_slow_is_tried_again(monkeypatch):
    calls = starting(monkeypatch, Exception(SLOW), None)
    session._start(address="local")
    assert calls == [{"address": "local"}] * 2


def test_a_machine_that_never_has_time_is_a_sentence(monkeypatch):
    starting(monkeypatch, *[Exception(SLOW)] * 3)
    with pytest.raises(EmiRayError, match="3 times in a row: the machine is too busy"):
        session._start(address="local")


def test_what_else_is_wrong_is_raised_as_it_is(monkeypatch):
    calls = starting(monkeypatch, ValueError("num_cpus"), None)
    with pytest.raises(ValueError, match="num_cpus"):
        session._start()
    assert len(calls) == 1


def test_what_raylets_warn_of_goes_to_our_log_and_not_to_the_terminal(monkeypatch, caplog, capsys):
    from ray._private import worker

    before = worker.print_to_stdstream
    with session._quiet(), caplog.at_level("WARNING", "emi_ray.ray"):
        worker.print_to_stdstream(
            {"lines": ["12 processes were started"], "pid": "raylet"}, ignore_prefix=False
        )
    assert "12 processes were started" in caplog.text
    assert capsys.readouterr().out == ""
    assert worker.print_to_stdstream is before


SHORT_MEMORY = (
    "Task _read_features failed due to oom. There are 2 oom retries remaining, so the task will be retried. Error: 1 "
    "worker(s) were killed due to the node running low on memory. Memory on the node (IP: 192.0.2.2, ID: 071ec) was "
    "22.47GB used / 23.54GB limit (0.954640)"
)


def test_short_memory_is_told_on_the_terminal_because_the_command_may_wait_for_it(caplog):
    with session._quiet(), caplog.at_level("WARNING", "emi_ray"):
        logging.getLogger("ray").warning(SHORT_MEMORY)
    (told,) = (record for record in caplog.records if record.name == "emi_ray.runtime")
    assert told.getMessage().startswith("The memory of node 192.0.2.2 ran out (22.47 of 23.54 GB used)")


def test_after_an_error_rays_threads_print_nothing(capsys):
    logger = logging.getLogger("ray.data")
    logger.addHandler(terminal := logging.StreamHandler(sys.stderr))
    try:
        with pytest.raises(KeyError), session._quiet():
            raise KeyError
        logger.error("Full stack trace: …")
        assert capsys.readouterr().err == ""
    finally:
        logger.removeHandler(terminal)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "says"),
    [
        (EmiRayError("the disk is full."), r"^the disk is full\.$"),
        (PermissionError(13, "no", "/data/x"), "^A worker failed: /data/x may not be written or read"),
        (KeyError("x"), "^A worker failed: KeyError: 'x'$"),
    ],
)
def test_what_a_task_raises_is_one_sentence(error, says, ray_session):
    def breaks() -> None:
        raise error

    with pytest.raises(EmiRayError, match=says):
        results_of(ray.remote(breaks).remote())
    with pytest.raises(EmiRayError, match=says), session.ray_session():
        ray.get(ray.remote(breaks).remote())


@pytest.mark.slow
def test_a_process_that_the_command_cannot_do_without_is_said_to_be_lost(ray_session):
    def die() -> None:
        os._exit(1)

    with pytest.raises(
        EmiRayError, match=r"^Ray lost a process or a node .* repeat the command to continue\.$"
    ):
        results_of(ray.remote(max_retries=0)(die).remote())


def test_of_an_actor_that_could_not_be_made_the_cause_is_told():
    said = "The actor died because of an error raised in its creation task, ray::A\n  File a\nOSError: no model\n"
    assert "(RayError: OSError: no model)." in str(in_a_sentence(ray.exceptions.RayError(said)))
