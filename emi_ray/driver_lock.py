"""Ensure that only one driver process works on an object at a time.

On a disk the driver holds a file lock, which the kernel releases however the process ends. Behind a URI, and on
mounts without locks, it holds a lease: a small file that it rewrites regularly. A lease lapses when its driver has
not rewritten it for a minute. A driver that finds that another one holds its lease ends at once.
"""

import errno
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pyarrow import fs

from emi_ray.atomic_files import AtomicFile, read_whole
from emi_ray.errors import EmiRayError, UserError
from emi_ray.interruption import end_main_thread
from emi_ray.time_limit import within

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

RENEW_EVERY_S = 20.0
LAPSES_AFTER_S = 60.0
SETTLE_S = 1.0
"""If two drivers start at once, the record of the later one is in place after this time."""

_LEAVE_WITHIN_S = 5.0
"""Time limit for giving a lease back, because the storage may be unreachable."""

_WAY_OUT_S = 40.0
"""Time that a driver which has lost its lease gets to clean up before its process is ended."""

_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)


def own_name() -> str:
    """Return the name of this process for messages of others."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def driven_by(what: str, driver: str, instead: str = "") -> UserError:
    """Build the error for an object that another process works on."""
    also = f"; or {instead}" if instead else ""
    return UserError(
        f"{what} is in progress in {driver}: wait until it ends, or end it, and start again{also}."
    )


@contextmanager
def driving(filesystem: fs.FileSystem, path: str, what: str, instead: str = "") -> Iterator[None]:
    """Ensure that no other process works on the object of the file at ``path`` while the ``with`` block runs.

    Raises:
        UserError: another process does; ``what`` begins the message, and ``instead`` is a further remedy.
        EmiRayError: this process was silent for so long that another one took over. If the main thread runs the
            block, it is interrupted as by Ctrl-C; otherwise the block runs to its end.
    """
    if not isinstance(filesystem, fs.LocalFileSystem):
        with _leasing(filesystem, path, what, instead):
            yield
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    # The file is not deleted afterwards: another process may have opened it already, and would lock a file that no
    # later process sees.
    with open(path, "a+") as file:
        held = _lock(file, what, instead)
        if held:
            yield
    if not held:
        with _leasing(filesystem, f"{path}.lease", what, instead):
            yield


def _lock(file: Any, what: str, instead: str) -> bool:
    """Lock a file and write this process's name into it. Returns False if locks are not supported."""
    if fcntl is None:
        return False
    try:
        # The kernel releases the lock when the process ends, also after a kill, so that no stale lock can remain.
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise driven_by(what, file.read().strip() or "another process", instead) from None
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise
    # The name is only for the message of a later process; the lock itself does not depend on the content.
    file.truncate(0)
    file.write(own_name())
    file.flush()
    return True


@contextmanager
def _leasing(filesystem: fs.FileSystem, path: str, what: str, instead: str) -> Iterator[None]:
    lapse = f"if it was killed, wait {LAPSES_AFTER_S:.0f} seconds"
    instead = f"{lapse}; or {instead}" if instead else lapse
    lease = _Lease(filesystem, path)
    if (other := lease.living_holder()) is not None:
        raise driven_by(what, other, instead)
    try:
        if (other := lease.take()) is not None:
            raise driven_by(what, other, instead)
        with renewing(lease.renew, RENEW_EVERY_S, what, LAPSES_AFTER_S):
            yield
    finally:
        with suppress(OSError):  # if the storage is unreachable, the lease lapses by itself
            within(_LEAVE_WITHIN_S, lease.leave)


@contextmanager
def renewing(
    renew: Callable[[], str | None], every_s: float, what: str, lapses_after_s: float
) -> Iterator[None]:
    """Call ``renew`` in a thread every ``every_s`` seconds while the ``with`` block runs, until it names another
    driver.

    Raises:
        EmiRayError: it did; if the main thread runs the block, it was interrupted.
    """
    over = threading.Event()
    taken: list[EmiRayError] = []
    is_main = threading.current_thread() is threading.main_thread()

    def watch() -> None:
        while not over.wait(every_s):
            if (other := renew()) is not None:
                taken.append(
                    EmiRayError(
                        f"{what} was taken over by {other}, because this process was silent for "
                        f"{lapses_after_s:.0f} seconds. Nothing is lost; wait until the other process ends."
                    )
                )
                # Only the main thread can be interrupted. In any other thread the error is raised when the block has
                # ended.
                if is_main:
                    end_main_thread(over, str(taken[0]), _WAY_OUT_S)
                return

    thread = threading.Thread(target=watch, name="emi-ray-lease", daemon=True)
    thread.start()
    try:
        yield
    # A Ctrl-C of the user is passed on; the interrupt by the watching thread is replaced by its error below.
    except KeyboardInterrupt:
        if not taken:
            raise
    finally:
        try:
            over.set()
            thread.join(_LEAVE_WITHIN_S)  # it may be waiting for unreachable storage
        except KeyboardInterrupt:  # sent by the watching thread while the block ended by itself
            if not taken:
                raise
    if taken:
        raise taken[0]


class _Lease:
    """The record that names the current driver. Its age is measured with the clock of the storage."""

    def __init__(self, filesystem: fs.FileSystem, path: str) -> None:
        self._lost_to: str | None = None
        self._filesystem = filesystem
        self._path = path
        self._token = uuid.uuid4().hex
        self._written = time.monotonic()
        self._is_settled = False

    def take(self) -> str | None:
        """Write the lease and wait until it counts. Returns the name of a driver that was later, or None."""
        # Two drivers that start at once may both write here. After the pause only the later record is left, and its
        # owner goes on.
        self.write()
        time.sleep(SETTLE_S)
        self._lost_to = self.living_holder()
        self._is_settled = True
        return self._lost_to

    def living_holder(self) -> str | None:
        """Return the name of another driver whose lease has not lapsed; None if there is none."""
        record = self._read()
        if record.get("token") in (None, self._token) or self._age_s() > LAPSES_AFTER_S:
            return None
        return str(record.get("driver"))

    def write(self) -> None:
        self._write(self._path, json.dumps({"driver": own_name(), "token": self._token}))
        self._written = time.monotonic()

    def renew(self) -> str | None:
        """Rewrite the lease. Returns the name of another driver that has taken over, or None."""
        with suppress(OSError):  # an outage, which may be over at the next renewal
            self._lost_to = self.living_holder()
            if self._lost_to is None:
                self.write()
        return self._lost_to

    def leave(self) -> None:
        """Give the lease back."""
        if self._lost_to is not None:
            return
        # No other driver takes over a settled lease before it lapses, so one that was written recently needs no
        # further look.
        nobody_may_have_it = self._is_settled and time.monotonic() - self._written < LAPSES_AFTER_S / 2
        if nobody_may_have_it or self._read().get("token") == self._token:
            self._filesystem.delete_file(self._path)

    def _age_s(self) -> float:
        """Return the seconds since the record was written.

        The clock of this machine may be wrong by minutes, so the present time is that of a file that is written
        now.
        """
        probe = f"{self._path}.{self._token}"
        self._write(probe, "")
        now = self._changed(probe)
        self._filesystem.delete_file(probe)
        return now - self._changed(self._path)

    def _changed(self, path: str) -> float:
        info = self._filesystem.get_file_info(path)
        return info.mtime.timestamp() if info.type == fs.FileType.File else float("-inf")

    def _write(self, path: str, text: str) -> None:
        # Another driver may read at any moment, and would take an empty file for a free lease.
        is_local = isinstance(self._filesystem, fs.LocalFileSystem)
        with (
            AtomicFile(self._filesystem, path, is_local, is_flushed=False) as target,
            self._filesystem.open_output_stream(target) as stream,
        ):
            stream.write(text.encode())

    def _read(self) -> dict[str, Any]:
        try:
            record = json.loads(read_whole(self._filesystem, self._path) or b"{}")
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        return record if isinstance(record, dict) else {}
