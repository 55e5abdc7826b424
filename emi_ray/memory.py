"""The memory of this machine, or of the container (cgroup) that this process runs in, and the kernel's page cache."""

import os
from contextlib import suppress
from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")
_FILES = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)
"""Files with a container's memory limit, its usage and its statistics, for versions 2 and 1 of cgroups."""


def total_memory() -> int:
    """Return the memory that this process could have, in bytes."""
    limits = [limit for name, _, _ in _FILES if (limit := _number(name)) is not None]
    return min([psutil.virtual_memory().total, *limits])


def available_memory() -> int:
    """Return the memory that processes can still take without being killed, in bytes."""
    left = [psutil.virtual_memory().available]
    for limit, usage, statistics in _FILES:
        most, used = _number(limit), _number(usage)
        if most is not None and used is not None:
            left.append(max(0, most - used + _reclaimable(_CGROUP / statistics)))
    return min(left)


def _number(name: str) -> int | None:
    """Read a file of the container; None if it does not exist, or says that there is no limit."""
    file = _CGROUP / name
    text = file.read_text().strip() if file.is_file() else ""
    return int(text) if text.isdigit() else None


def _reclaimable(statistics: Path) -> int:
    """Return the bytes of cached files, which the kernel gives back when memory is short."""
    if not statistics.is_file():
        return 0
    entries = dict(line.split()[:2] for line in statistics.read_text().splitlines() if len(line.split()) == 2)
    return int(entries.get("inactive_file", 0))


def drop_pages(path: str) -> None:
    """Let the kernel drop a local file from its page cache, to make room for what was read from it.

    Finding pages to evict while memory is full takes the kernel several times as long as copying the data.
    """
    if hasattr(os, "posix_fadvise"):  # not on macOS
        with suppress(OSError), open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
