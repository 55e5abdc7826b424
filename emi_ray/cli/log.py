"""The log of a long command: ``logs/<time>-<command>-<process>.jsonl`` in its workspace, one event per line.

It has the start and the end of the command, the events of ``emi_ray.events`` with their fields, progress, warnings,
and the messages of Ray, which are not shown on the terminal. Behind a URI the file is rewritten every minute,
because object stores cannot append.
"""

import json
import logging
import os
import sys
import time
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

from emi_ray.errors import EmiRayError
from emi_ray.storage import without_credentials
from emi_ray.time_limit import within
from emi_ray.workspace import CONFIG, Workspace

LOGGED = ("demo", "extract", "predict", "reproduce", "robustness", "run", "train", "tune")
"""Commands that may take long."""

_WRITE_EVERY_S = 60.0
_LAST_WORDS_S = 10.0
_MAX_LINES = 20_000
"""Maximum number of lines, because a file behind a URI is kept in memory. Further events are counted, not written."""

LOG = logging.getLogger("emi_ray")


class WorkspaceLog(logging.Handler):
    """Writes log records as lines of JSON into a file of a workspace.

    If it cannot write, it stops silently: a log must not end a run.
    """

    def __init__(self, workspace: Workspace, verb: str) -> None:
        # Events of every epoch are DEBUG and would fill the file.
        super().__init__(logging.INFO)
        self._workspace, self._is_local = workspace, workspace.is_local
        self._path = f"logs/{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{verb}-{os.getpid()}.jsonl"
        self.place = workspace.shown(self._path)
        self._lines: list[str] = []
        self._num_written = self._num_dropped = 0
        self._last_write = time.monotonic()
        self._gave_up = False

    def emit(self, record: logging.LogRecord) -> None:
        if self._gave_up:
            return
        if len(self._lines) >= _MAX_LINES:
            self._num_dropped += 1
            return
        self._add(record)
        if self._is_local or time.monotonic() - self._last_write > _WRITE_EVERY_S:
            self.flush()

    def end(self, message: str) -> None:
        """Write how the command ended, whatever the number of lines, and how many events were not written."""
        dropped = (
            f"; {self._num_dropped} events above {_MAX_LINES} were not written" if self._num_dropped else ""
        )
        self.acquire()  # as logging does around emit
        try:
            self._add(LOG.makeRecord(LOG.name, logging.INFO, "", 0, message + dropped, (), None))
            self.flush()
        finally:
            self.release()

    def _add(self, record: logging.LogRecord) -> None:
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "source": record.name,
            "message": without_credentials(record.getMessage()),
        }
        if (event := getattr(record, "event", None)) is not None:
            entry["event"] = event
            entry["fields"] = json.loads(without_credentials(json.dumps(record.fields, default=str)))  # type: ignore[attr-defined]
        if record.exc_info:
            entry["traceback"] = without_credentials("".join(traceback.format_exception(*record.exc_info)))
        self._lines.append(json.dumps(entry, ensure_ascii=False) + "\n")

    def flush(self) -> None:
        """Write the lines that are not written yet."""
        if self._gave_up or self._num_written == len(self._lines):
            return
        try:
            if self._is_local:
                self._append()
            else:
                self._workspace.write_text(self._path, "".join(self._lines))
        except (OSError, EmiRayError):
            self._gave_up = True
        self._num_written, self._last_write = len(self._lines), time.monotonic()

    def _append(self) -> None:
        path = self._workspace.path(self._path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "a", encoding="utf-8") as file:
            file.writelines(self._lines[self._num_written :])


def begin_log(verb: str, root: str) -> str | None:
    """Start the log of this process's command, if it is a long one and the workspace exists.

    Returns:
        The path or URI of the log file; None if nothing is logged, or a log exists already.
    """
    workspace = Workspace(root)
    if verb not in LOGGED or any(isinstance(handler, WorkspaceLog) for handler in LOG.handlers):
        return None
    # Only these two commands create a workspace; others are about to report that there is none.
    if verb not in ("run", "demo") and not workspace.exists(CONFIG):
        return None
    handler = WorkspaceLog(workspace, verb)
    LOG.setLevel(min(LOG.level or logging.INFO, logging.INFO))
    LOG.addHandler(handler)
    LOG.info("began: %s", " ".join(map(without_credentials, sys.argv[1:])))
    return handler.place


def end_log(code: int, message: str = "") -> None:
    """Log how the command ended, and write the remaining lines."""
    logs = [handler for handler in LOG.handlers if isinstance(handler, WorkspaceLog)]
    for handler in logs:
        ended = f"ended with exit code {code}" + (f": {message}" if message else "")
        with suppress(TimeoutError):  # unreachable storage must not delay the end
            within(_LAST_WORDS_S, partial(handler.end, ended))
        LOG.removeHandler(handler)
