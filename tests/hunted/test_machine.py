"""Other programs, systems and users on the machine."""

import subprocess
import sys

import pytest

from emi_ray.config import WorkspaceConfig
from emi_ray.errors import UserError
from emi_ray.extraction.run import extract
from emi_ray.workspace import EXTRACTIONS, Workspace

WITHOUT_UNIX = """
import builtins, importlib, os, pkgutil, signal, sys
import emi_ray

importing = builtins.__import__
def on_windows(name, names=None, *rest, **more):
    asks = (names or {}).get("__name__") or ""
    if name in ("fcntl", "resource", "pwd", "grp", "termios") and asks.startswith("emi_ray"):
        raise ImportError(name)
    return importing(name, names, *rest, **more)
builtins.__import__ = on_windows
for module in pkgutil.walk_packages(emi_ray.__path__, "emi_ray."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)

from emi_ray.extraction.watchdog import Note
from emi_ray.workspace import Workspace
for name in ("getuid", "fork", "killpg", "setsid"):
    delattr(os, name)
for name in ("SIGKILL", "SIGHUP", "SIGALRM", "pthread_kill"):
    delattr(signal, name)
Note("actor", "text")
with Workspace(sys.argv[1]).driving("extractions", "Extraction"):
    pass
"""
"""Of the modules of this package alone: others look at the system that they really run on."""


@pytest.mark.slow
def test_no_module_needs_what_windows_has_not(tmp_path):
    """Modules and functions of Unix alone are taken away, then everything is imported and a workspace is driven."""
    command = [sys.executable, "-c", WITHOUT_UNIX, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_second_extraction_is_refused_and_names_the_first(tmp_path):
    workspace = Workspace(str(tmp_path))
    with (
        workspace.driving(EXTRACTIONS, "Extraction"),
        pytest.raises(UserError, match=r"Extraction into .* is in progress in process \d+ on "),
    ):
        extract(workspace, WorkspaceConfig())


INTERRUPTED = """
import os, signal, sys, threading, time
import emi_ray.status
from emi_ray.cli import main

def at_work(*_):
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    time.sleep(20)

emi_ray.status.read_status = at_work
main(["status", "-w", sys.argv[1]])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
def test_ctrl_c_ends_with_one_sentence_and_exit_code_130(tmp_path):
    Workspace(str(tmp_path)).write_config(WorkspaceConfig())
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 130
    assert done.stderr.splitlines() == ["Interrupted. Finished work is kept; repeat the command to continue."]


DURING_IMPORTS = """
import os, signal, sys
from importlib.abc import MetaPathFinder

class Interrupts(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "typer":
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                raise ImportError("typer is broken") from None

sys.meta_path.insert(0, Interrupts())
from emi_ray.__main__ import main
sys.argv = ["emi-ray", "recipes"]
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
def test_ctrl_c_while_modules_are_imported_is_quiet():
    done = subprocess.run([sys.executable, "-c", DURING_IMPORTS], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Interrupted.\n")
