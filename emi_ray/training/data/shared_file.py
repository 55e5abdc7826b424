"""A file that several processes of one machine open: on its disk, or in its memory."""

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from emi_ray.errors import EmiRayError

_PREFIX = "emi-ray-"


@dataclass(frozen=True)
class SharedFile:
    """A file that one process creates and other processes open by its path.

    Attributes:
        path: path of the file.
        name: unique name of a file in memory; empty for one on the disk.
    """

    path: str
    name: str = ""

    def open(self, mode: Literal["rb", "r+b"]) -> BinaryIO:
        """Open the file without a buffer. Nothing is cut off, because other processes may have mapped it.

        Raises:
            EmiRayError: the file is gone, or another one has taken the number of its descriptor.
        """
        ended = EmiRayError(f"The command that shared {self.path} has ended.")
        try:
            file = open(self.path, mode, buffering=0)  # noqa: SIM115 - the caller closes it
        except FileNotFoundError as error:
            raise ended from error
        if self.name and self.name not in os.readlink(f"/proc/self/fd/{file.fileno()}"):
            file.close()
            raise ended
        return file


def create_on_disk(path: Path) -> SharedFile:
    """Create an empty file."""
    path.touch()
    return SharedFile(str(path))


def create_in_memory() -> tuple[SharedFile, int]:
    """Create an empty file in memory, which exists while a process has it open or mapped.

    Returns:
        The file, and its descriptor in this process, which the caller closes.

    Raises:
        OSError: the system has no such files, or does not let processes open those of others.
    """
    if not hasattr(os, "memfd_create"):  # only Linux has it
        raise OSError("this system has no files in memory")
    name = f"{_PREFIX}{secrets.token_hex(8)}"
    descriptor = os.memfd_create(name)
    file = SharedFile(f"/proc/{os.getpid()}/fd/{descriptor}", name)
    try:
        file.open("rb").close()
    except (OSError, EmiRayError) as error:
        os.close(descriptor)
        raise OSError(f"{file.path} cannot be opened") from error
    return file, descriptor
