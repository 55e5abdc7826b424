"""What watches over a batch from inside its process, and what remains of it when the process dies.

The clips in hand are written down before a batch and crossed out behind it. A process that dies (a crash in native
code, the kernel's or Ray's killing for memory, a limit of ours) leaves the note behind, and its successor on the same
node knows which clips to treat with care.
"""

import faulthandler
import json
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

POLL_S = 0.25
BUILD_LIMIT_S = 1800.0
"""For loading a model, which may come from afar."""

_KEPT_S = 86_400.0
"""After which a note that no successor came for is removed."""


@dataclass(frozen=True)
class Limits:
    """What one batch may take: seconds, and bytes of memory beyond what its process held before."""

    seconds: float
    num_bytes: int


def default_memory_limit() -> int:
    """Half of the memory of this machine, or of the container that bounds it."""
    total = psutil.virtual_memory().total
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        file = Path("/sys/fs/cgroup") / name
        if file.is_file() and (text := file.read_text().strip()).isdigit():
            total = min(total, int(text))
    return total // 2


class Note:
    """The clips that a stage of an actor has in hand, in a file of this node.

    Args:
        owner: what the actor is called in this life and the next.
    """

    def __init__(self, owner: str, stage: str) -> None:
        folder = Path(tempfile.gettempdir()) / f"emi-ray-in-hand-{_own_user()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        _forget_old(folder)
        self._file = folder / f"{re.sub(r'[^A-Za-z0-9]', '_', owner)}-{stage}.json"
        self._lock = threading.Lock()
        self._in_hand: set[str] = set()

    def left_behind(self) -> set[str]:
        """The clips that this actor had in hand when it died."""
        try:
            return set(json.loads(self._file.read_text()))
        except (FileNotFoundError, ValueError):
            return set()

    @contextmanager
    def holding(self, clip_ids: Iterable[str]) -> Iterator[None]:
        """While the block lasts, the note says that these clips are in hand, beside those of other threads."""
        mine = set(clip_ids)
        with self._lock:
            self._in_hand |= mine
            self._file.write_text(json.dumps(sorted(self._in_hand)))
        yield
        with self._lock:
            self._in_hand -= mine
            if self._in_hand:
                self._file.write_text(json.dumps(sorted(self._in_hand)))
            else:
                self._file.unlink(missing_ok=True)


class Watch:
    """Ends this process when something in it takes too long, or too much memory.

    Time is kept by ``faulthandler``, whose thread runs even while native code holds the interpreter. It knows one
    deadline only: the earliest of all that are set.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._deadlines: dict[object, float] = {}
        self._bytes: dict[object, int] = {}
        self._poller: threading.Thread | None = None

    @contextmanager
    def over(self, limits: Limits) -> Iterator[None]:
        """Watch the block."""
        token = object()
        with self._lock:
            self._deadlines[token] = time.monotonic() + limits.seconds
            self._bytes[token] = psutil.Process().memory_info().rss + limits.num_bytes
            self._arm()
            if self._poller is None:
                self._poller = threading.Thread(target=self._poll, daemon=True)
                self._poller.start()
        try:
            yield
        finally:
            with self._lock:
                del self._deadlines[token], self._bytes[token]
                self._arm()

    def _arm(self) -> None:
        if not self._deadlines:
            faulthandler.cancel_dump_traceback_later()
            return
        left = max(min(self._deadlines.values()) - time.monotonic(), 0.01)
        faulthandler.dump_traceback_later(left, exit=True, file=_nowhere())

    def _poll(self) -> None:
        process = psutil.Process()
        while True:
            time.sleep(POLL_S)
            with self._lock:
                allowed = min(self._bytes.values(), default=None)
            if allowed is not None and process.memory_info().rss > allowed:
                end_process()


def end_process() -> None:
    """End this process at once, as a crash would: Ray starts a successor, which repeats what was in hand."""
    psutil.Process().kill()


def _own_user() -> str:
    """This user, as a part of a file's name; Windows has no numbers of users."""
    name = str(os.getuid()) if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    return re.sub(r"\W", "_", name)


def _nowhere() -> int:
    """A descriptor for the traceback of a process that took too long."""
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
