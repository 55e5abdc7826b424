"""Files that appear only when they are complete, and that are read as a whole although they may be replaced."""

import errno
import os
import time
import uuid
from contextlib import suppress

from pyarrow import fs


class AtomicFile:
    """Context manager that returns a path to write to. The file appears under its real name if no exception was
    raised.

    Args:
        detour: whether a file that is being written would be visible under its real name, as on a disk. Then it is
            written under a hidden name and renamed.
        is_flushed: whether the file must outlast a power failure as soon as it appears. On a busy disk that takes
            milliseconds, because what other processes have written is flushed too.

    Raises:
        OSError: the file could not be written to the disk, which the disk or the server reports only at the end.
    """

    def __init__(self, filesystem: fs.FileSystem, path: str, detour: bool, is_flushed: bool = True) -> None:
        self._filesystem = filesystem
        self._is_flushed = is_flushed
        self._final = path
        self._folder, _, name = path.rpartition("/")
        self._hidden = f"{self._folder}/.{name}.{uuid.uuid4().hex}" if detour else path

    def __enter__(self) -> str:
        if self._hidden != self._final:
            self._filesystem.create_dir(self._folder, recursive=True)
        return self._hidden

    def __exit__(self, kind: object, *_: object) -> None:
        if self._hidden == self._final:
            return
        if kind is not None:
            self._remove_hidden()
            return
        try:
            if self._is_flushed:
                # A file that is renamed before its content is on the disk would be empty after a power failure.
                _flush(self._hidden)
            self._filesystem.move(self._hidden, self._final)
        except BaseException:
            self._remove_hidden()
            raise
        if self._is_flushed:
            with suppress(OSError):  # some file systems cannot flush a folder
                _flush(self._folder)

    def _remove_hidden(self) -> None:
        # The storage may be out of reach, or the block may have failed before it created the file.
        with suppress(OSError):
            self._filesystem.delete_file(self._hidden)


def read_whole(filesystem: fs.FileSystem, path: str, size: int | None = None) -> bytes:
    """Read a file that another process may replace at any moment.

    Arrow's object stores ask for the size first and for the content by a second request. If a file of another size
    replaces the first one between the two, the content is cut off, or filled up with zeros, to the old size. Such a
    read is repeated.

    Args:
        size: the size in bytes, if it is known and the file is never replaced; it saves a request.
    """
    while True:
        with filesystem.open_input_file(path) as file:  # a stream would ask for 256 KiB at a time
            data = file.read()
        if isinstance(filesystem, fs.LocalFileSystem) or len(data) == size:
            return data
        if len(data) == filesystem.get_file_info(path).size:
            return data


def _flush(path: str) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that cannot flush at all
            raise
    finally:
        os.close(opened)


def sweep(filesystem: fs.FileSystem, folder: str) -> None:
    """Remove hidden files under a folder that are more than an hour old, which killed processes have left."""
    long_ago = time.time() - 3600
    for info in filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True, recursive=True)):
        is_hidden_file = info.type == fs.FileType.File and info.base_name.startswith(".")
        if is_hidden_file and info.mtime.timestamp() < long_ago:
            filesystem.delete_file(info.path)
