"""A command of several runs whose driver is killed when two of them are finished, and that is given again."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from emi_ray.workspace import Workspace


@dataclass(frozen=True)
class RunsCommand:
    """What follows ``emi-ray``, and the runs (``f1/42``) that it is to finish in a workspace."""

    workspace: Workspace
    arguments: Sequence[str]
    runs: Sequence[str]

    def finished(self) -> dict[str, int]:
        """When each finished run wrote its metrics, which it does once."""
        paths = {run: self.workspace.path(f"runs/{run}/metrics.json") for run in self.runs}
        return {run: os.stat(path).st_mtime_ns for run, path in paths.items() if os.path.exists(path)}

    def kill_after_two(self) -> dict[str, int]:
        """Start the command and kill its driver; returns :meth:`finished` of then."""
        driver = self._start()
        while len(self.finished()) < 2 and driver.poll() is None:
            time.sleep(0.02)
        driver.send_signal(signal.SIGKILL)
        assert driver.wait() == -signal.SIGKILL, self._log()
        time.sleep(3)  # its workers end by themselves
        before = self.finished()
        assert 2 <= len(before) < len(self.runs)
        return before

    def repeat(self) -> dict[str, int]:
        """Give the command again, which must succeed; returns :meth:`finished`."""
        assert self._start().wait() == 0, self._log()
        return self.finished()

    def _start(self) -> subprocess.Popen:
        line = [sys.executable, "-m", "emi_ray", *self.arguments]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        with open(self.workspace.path("log"), "ab") as log:
            return subprocess.Popen(line, env=environment, stdout=log, stderr=log, start_new_session=True)

    def _log(self) -> str:
        return self.workspace.read_text("log")[-3000:]
