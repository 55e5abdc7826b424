"""One driver at a time: what a process drives, no other may.

On a disk the driver holds a lock, which the kernel lets go of however the process ends. Behind a URI, and on mounts
without locks, it keeps a lease: a small file that it writes anew again and again, and that counts for nothing once
its driver has been silent for a minute.
"""

import errno
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyarrow import fs

from emi_ray.errors import EmiRayError, UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

RENEW_EVERY_S = 20.0
LAPSES_AFTER_S = 60.0
SETTLE_S = 1.0
"""Of two drivers that start at once, the later record stands after this time."""

_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)


def own_name() -> str:
    """This process, for other people's messages."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def driven_by(what: str, driver: str, instead: str = "") -> UserError:
    """The refusal to drive what another process drives."""
    also = f"; or {instead}" if instead else ""
    return UserError(f"{what} is being driven by {driver}: let it finish, or end it, and start again{also}.")


@contextmanager
def driving(filesystem: fs.FileSystem, path: str, what: str, instead: str = "") -> Iterator[None]:
    """While the block lasts, no other process drives what the file at ``path`` stands for.

    Raises:
        UserError: another process does; ``what`` begins the message, ``instead`` is one more way out.
        EmiRayError: this process was silent for so long that another took over.
    """
    if not isinstance(filesystem, fs.LocalFileSystem):
        with _leasing(filesystem, path, what, instead):
            yield
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as file:
        held = _lock(file, what, instead)
        if held:
            yield
    if not held:
        with _leasing(filesystem, f"{path}.lease", what, instead):
            yield


def _lock(file: Any, what: str, instead: str) -> bool:
    """Lock a file and write this process's name into it; False where there are no locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise driven_by(what, file.read().strip() or "another process", instead) from None
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise
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
    lease.write()
    time.sleep(SETTLE_S)
    if (other := lease.living_holder()) is not None:
        raise driven_by(what, other, instead)
    over = threading.Event()
    renewing = threading.Thread(target=lease.renew_until, args=(over,), name="emi-ray-lease", daemon=True)
    renewing.start()
    try:
        yield
    finally:
        over.set()
        renewing.join()
        lease.leave()
    if lease.lost_to is not None:
        raise EmiRayError(
            f"{what} was taken over by {lease.lost_to}, since this process gave no sign of life for "
            f"{LAPSES_AFTER_S:.0f} seconds. Nothing is lost; let the other finish."
        )


class _Lease:
    """The record of the one driver: who it is. Its age is told by the store's own clock."""

    def __init__(self, filesystem: fs.FileSystem, path: str) -> None:
        self.lost_to: str | None = None
        self._filesystem = filesystem
        self._path = path
        self._token = uuid.uuid4().hex
        self._written = time.monotonic()

    def living_holder(self) -> str | None:
        """The name of another driver whose lease has not lapsed."""
        record = self._read()
        if record.get("token") in (None, self._token) or self._age_s() > LAPSES_AFTER_S:
            return None
        return str(record.get("driver"))

    def write(self) -> None:
        self._write(self._path, json.dumps({"driver": own_name(), "token": self._token}))
        self._written = time.monotonic()

    def renew_until(self, over: threading.Event) -> None:
        while not over.wait(RENEW_EVERY_S):
            try:
                self.lost_to = self.living_holder()
                if self.lost_to is not None:
                    return
                self.write()
            except OSError:  # an outage; the next time may reach the store
                continue

    def leave(self) -> None:
        """Give the lease back. Where the store is out of reach it lapses by itself."""
        if self.lost_to is not None:
            return
        try:
            is_certain = (
                time.monotonic() - self._written < LAPSES_AFTER_S / 2
            )  # nobody may have taken it over
            if is_certain or self._read().get("token") == self._token:
                self._filesystem.delete_file(self._path)
        except OSError:
            return

    def _age_s(self) -> float:
        """Seconds since the record was written. The clock of this machine may be minutes off: the store's present is
        the time of a file that is written now."""
        probe = f"{self._path}.{self._token}"
        self._write(probe, "")
        now = self._changed(probe)
        self._filesystem.delete_file(probe)
        return now - self._changed(self._path)

    def _changed(self, path: str) -> float:
        info = self._filesystem.get_file_info(path)
        return info.mtime.timestamp() if info.type == fs.FileType.File else float("-inf")

    def _write(self, path: str, text: str) -> None:
        if isinstance(self._filesystem, fs.LocalFileSystem):
            Path(path).write_text(text)
            return
        with self._filesystem.open_output_stream(path) as stream:
            stream.write(text.encode())

    def _read(self) -> dict[str, Any]:
        try:
            with self._filesystem.open_input_file(self._path) as file:
                record = json.loads(file.read() or b"{}")
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        return record if isinstance(record, dict) else {}
