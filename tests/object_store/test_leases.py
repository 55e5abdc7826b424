"""Leases of drivers: two drivers on one workspace, and a driver whose lease is in other hands."""

import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from pyarrow import fs

from emi_ray import driver_lock
from emi_ray.errors import UserError
from emi_ray.workspace import Workspace


@pytest.fixture
def quick_leases(monkeypatch):
    monkeypatch.setattr(driver_lock, "SETTLE_S", 0.05)
    monkeypatch.setattr(driver_lock, "RENEW_EVERY_S", 0.1)


def test_two_drivers_on_one_workspace_behind_a_uri_are_noticed(s3, quick_leases):
    first, second = Workspace(s3.uri("driven")), Workspace(s3.uri("driven"))
    with first.driving("features", "Extraction"):
        time.sleep(0.3)
        with pytest.raises(UserError, match="Extraction is in progress in process .*if it was killed, wait"):
            second.driving("features", "Extraction").__enter__()
    assert not first.exists("features/.driver")
    with second.driving("features", "Extraction"):
        assert second.exists("features/.driver")


def test_a_lease_lapses_when_its_driver_no_longer_renews_it(s3, quick_leases, monkeypatch):
    monkeypatch.setattr(driver_lock, "LAPSES_AFTER_S", 2.0)
    workspace = Workspace(s3.uri("lapsing"))
    workspace.write_text("runs/.driver", '{"driver": "process 1 on gone", "token": "other"}')
    with pytest.raises(UserError, match="process 1 on gone"):
        workspace.driving("runs", "Run").__enter__()
    time.sleep(3.1)  # the store's clock has whole seconds
    with workspace.driving("runs", "Run"):
        pass


@pytest.mark.parametrize("is_overtaken", [False, True])
def test_an_interrupt_before_a_lease_counts_takes_back_its_own_record_only(s3, monkeypatch, is_overtaken):
    workspace = Workspace(s3.uri(f"interrupted {is_overtaken}"))

    def interrupted(_seconds):
        assert workspace.exists("runs/.driver")
        if is_overtaken:
            workspace.write_text("runs/.driver", TAKEN_OVER)
        raise KeyboardInterrupt

    # Not time.sleep itself, which threads of other tests in this process call as well.
    clock = SimpleNamespace(sleep=interrupted, monotonic=time.monotonic)
    monkeypatch.setattr(driver_lock, "time", clock)
    with pytest.raises(KeyboardInterrupt):
        workspace.driving("runs", "Run").__enter__()
    assert workspace.exists("runs/.driver") == is_overtaken


@pytest.mark.parametrize("other", ["process 2 on elsewhere.example.org", "x"])
def test_a_lease_that_is_replaced_while_it_is_read_is_not_taken_for_a_free_one(faltering, other):
    workspace = Workspace(faltering.uri("overtaken"))
    lease = driver_lock._Lease(workspace.filesystem, workspace.path("runs/.driver"))
    lease.write()
    replaced = f'{{"driver": "{other}", "token": "other"}}'
    faltering.once_seen = lambda: workspace.write_text("runs/.driver", replaced)
    assert lease.living_holder() == other


def test_a_lease_on_a_disk_is_never_seen_half_written(tmp_path):
    path = tmp_path / "lease"
    lease = driver_lock._Lease(fs.LocalFileSystem(), str(path))
    lease.write()
    before = path.stat().st_ino
    lease.write()
    assert path.stat().st_ino != before  # a new file in its place, not the old one written again
    assert [file.name for file in tmp_path.iterdir()] == ["lease"]


TAKEN_OVER = '{"driver": "process 2 on elsewhere", "token": "other"}'


REPLACED = """
import sys, time
from emi_ray import driver_lock
from emi_ray.errors import EmiRayError
from emi_ray.workspace import Workspace
driver_lock.SETTLE_S, driver_lock.RENEW_EVERY_S = 0.05, 0.1
workspace = Workspace(sys.argv[1])
try:
    with workspace.driving("runs/1", "Run f2/1"), workspace.driving("runs/2", "Run f2/2"):
        for _ in range(60):  # once may come between its reading and its writing
            workspace.write_text("runs/1/.driver", sys.argv[2])
            time.sleep(1)
except EmiRayError as error:
    print(error)
"""


def test_a_driver_that_was_replaced_is_ended_in_its_middle_and_says_so(s3):
    # In a process of its own: the interruption is a signal, which would also end a process of tests.
    workspace = Workspace(s3.uri("replaced"))
    started = time.monotonic()
    command = [sys.executable, "-c", REPLACED, workspace.root, TAKEN_OVER]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=55)
    assert "taken over by process 2 on elsewhere" in ended.stdout, ended.stderr
    assert time.monotonic() - started < 40
    assert workspace.exists("runs/1/.driver")
    assert not workspace.exists("runs/2/.driver")


STUCK = """
import signal, sys, time
from pyarrow import fs
from emi_ray import driver_lock
driver_lock.SETTLE_S, driver_lock.RENEW_EVERY_S, driver_lock._WAY_OUT_S = 0.05, 0.1, 0.3
signal.signal(signal.SIGINT, signal.SIG_IGN)  # as native code does
with driver_lock._leasing(fs.LocalFileSystem(), sys.argv[1], "Run f2/42", ""):
    print("driving", flush=True)
    time.sleep(60)
"""


def test_a_driver_that_was_replaced_and_is_stuck_ends_with_its_process(tmp_path):
    lease = tmp_path / "lease"
    command = [sys.executable, "-c", STUCK, str(lease)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "driving\n"
        other = tmp_path / "other"  # moved into its place, so that it is never read half-written
        other.write_text(TAKEN_OVER)
        for _ in range(20):
            other.write_text(TAKEN_OVER)
            other.replace(lease)
            time.sleep(0.05)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 1
    assert said.startswith("Failed: Run f2/42 was taken over by process 2 on elsewhere")


def test_the_last_words_of_a_driver_do_not_wait_for_a_store_that_is_out_of_reach(
    s3, quick_leases, monkeypatch
):
    monkeypatch.setattr(driver_lock, "_LEAVE_WITHIN_S", 0.2)
    monkeypatch.setattr(driver_lock._Lease, "leave", lambda self: time.sleep(60))
    started = time.monotonic()
    with Workspace(s3.uri("left")).driving("runs", "Run f2/42"):
        pass
    assert time.monotonic() - started < 20
