"""Watch over a batch from inside its process, and leave a note of its clips in case the process dies.

The ids of the clips are written to a file before the batch and removed after it. If the process dies (a crash in
native code, a kill by the kernel or by Ray for memory, or a limit of ours), the note remains, and the next process
of the actor on the same node knows which clips to process in a child process.
"""

import faulthandler
import json
import math
import os
import re
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from emi_ray.memory import total_memory

POLL_S = 0.25
ON_DEVICE = 2
"""Batches that a GPU computes at once, of all those that its process has in progress."""
BUILD_LIMIT_S = 1800.0
"""Time limit for loading a model, which may have to be downloaded."""

_KEPT_S = 86_400.0
"""Age at which a note that no process has read is removed."""


@dataclass(frozen=True)
class Limits:
    """Limits of one batch: seconds, and bytes of memory in addition to what the process used before."""

    seconds: float
    num_bytes: int

    def among(self, batches: int) -> "Limits":
        """Return the limits of one of several batches that a process has in progress.

        The process watches the memory of all of them, and the device computes two at once.
        """
        if batches == 1:
            return self
        most = max(self.num_bytes, total_memory() * 3 // 4)
        return Limits(ON_DEVICE * self.seconds, min(batches * self.num_bytes, most))


def default_memory_limit() -> int:
    """Return half of the memory of this machine, or of its container, in bytes."""
    return total_memory() // 2


class Note:
    """The clips that a stage of an actor is processing, and those that have ended a process, in a file on this node.

    Args:
        owner: identity of the actor, which stays the same after a restart.
    """

    def __init__(self, owner: str, stage: str) -> None:
        folder = Path(tempfile.gettempdir()) / f"emi-ray-in-hand-{_own_user()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        _forget_old(folder)
        self._of_owner = re.sub(r"[^A-Za-z0-9]", "_", owner)
        self._file = folder / f"{self._of_owner}-{stage}.json"
        self._lock = threading.Lock()
        self._in_hand: set[str] = set()
        self._suspects: set[str] = set()

    def left_behind(self) -> set[str]:
        """Return the ids of the clips that this actor was processing when it died, and of earlier suspects."""
        try:
            return set(json.loads(self._file.read_text()))
        except (FileNotFoundError, ValueError):
            return set()

    def is_any_left(self) -> bool:
        """Return whether any stage of this actor has left a note."""
        return any(self._file.parent.glob(f"{self._of_owner}-*.json"))

    def suspect(self, clip_ids: Iterable[str]) -> None:
        """List these clips in the note from now on, instead of those that were suspects before."""
        with self._lock:
            self._suspects = set(clip_ids)
            self._write()

    @contextmanager
    def holding(self, clip_ids: Iterable[str]) -> Iterator[None]:
        """List these clips in the note while the ``with`` block runs, together with those of other threads."""
        mine = set(clip_ids)
        with self._lock:
            self._in_hand |= mine
            self._write()
        yield
        with self._lock:
            self._in_hand -= mine
            self._write()

    def _write(self) -> None:
        if listed := self._in_hand | self._suspects:
            self._file.write_text(json.dumps(sorted(listed)))
        else:
            self._file.unlink(missing_ok=True)


class Watch:
    """End this process when a batch in it exceeds its limit of time or memory.

    ``faulthandler`` keeps the time, because its thread runs even while native code holds the interpreter lock. It
    supports only one deadline, so it is always set to the earliest.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Several threads may each have a batch in progress, so each has its own entry.
        self._deadlines: dict[int, float] = {}
        self._bytes: dict[int, int] = {}
        self._poller: threading.Thread | None = None

    @contextmanager
    def over(self, limits: Limits) -> Iterator[None]:
        """Enforce the limits on this thread while the ``with`` block runs."""
        me = threading.get_ident()
        with self._lock:
            self._deadlines[me] = time.monotonic() + limits.seconds
            self._bytes[me] = psutil.Process().memory_info().rss + limits.num_bytes
            self._arm()
            if self._poller is None:
                self._poller = threading.Thread(target=self._poll, daemon=True)
                self._poller.start()
        try:
            yield
        finally:
            with self._lock:
                del self._deadlines[me], self._bytes[me]
                self._arm()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time of the ``with`` block, in which this thread waits for others, for its batch."""
        me, began = threading.get_ident(), time.monotonic()
        with self._lock:
            deadline = self._deadlines.get(me)
            if deadline is not None:
                self._deadlines[me] = math.inf
                self._arm()
        try:
            yield
        finally:
            if deadline is not None:
                with self._lock:
                    self._deadlines[me] = deadline + time.monotonic() - began
                    self._arm()

    def _arm(self) -> None:
        earliest = min(self._deadlines.values(), default=math.inf)
        if earliest == math.inf:
            faulthandler.cancel_dump_traceback_later()
            return
        # faulthandler refuses a delay that is not positive, so a deadline that has passed becomes a very short delay.
        left = max(earliest - time.monotonic(), 0.01)
        # A further call replaces the earlier deadline.
        faulthandler.dump_traceback_later(left, exit=True, file=_nowhere())

    def _poll(self) -> None:
        process = psutil.Process()
        while True:
            time.sleep(POLL_S)
            with self._lock:
                allowed = min(self._bytes.values(), default=None)
            if allowed is not None and process.memory_info().rss > allowed:
                end_process()


WATCH = Watch()
"""The single watchdog of this process, shared by all of its stages."""


def end_process() -> None:
    """Kill this process like a crash would: Ray starts a new one and repeats the tasks."""
    psutil.Process().kill()


def _own_user() -> str:
    """Return this user as a part of a file name. Windows has no numeric user ids."""
    name = str(os.getuid()) if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    return re.sub(r"\W", "_", name)


def _nowhere() -> int:
    """Return a file descriptor that discards the traceback of a process that exceeded its time."""
    global _devnull
    if _devnull is None:
        _devnull = os.open(os.devnull, os.O_WRONLY)
    return _devnull


_devnull: int | None = None


def _forget_old(folder: Path) -> None:
    for file in folder.glob("*.json"):
        try:
            if time.time() - file.stat().st_mtime > _KEPT_S:
                file.unlink()
        except FileNotFoundError:
            pass
