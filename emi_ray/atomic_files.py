"""Files that appear only when they are complete."""

import time
import uuid

from pyarrow import fs


class AtomicFile:
    """Context manager that returns a hidden path to write to, and renames it to the real one if no exception was
    raised.

    Args:
        detour: whether a file that is being written would be visible under its real name.
    """

    def __init__(self, filesystem: fs.FileSystem, path: str, detour: bool) -> None:
        self._filesystem = filesystem
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
        if kind is None:
            self._filesystem.move(self._hidden, self._final)
        # The block may have failed before it created the file.
        elif self._filesystem.get_file_info(self._hidden).type == fs.FileType.File:
            self._filesystem.delete_file(self._hidden)


def sweep(filesystem: fs.FileSystem, folder: str) -> None:
    """Remove hidden files under a folder that are more than an hour old, which killed processes have left."""
    long_ago = time.time() - 3600
    for info in filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True, recursive=True)):
        is_hidden_file = info.type == fs.FileType.File and info.base_name.startswith(".")
        if is_hidden_file and info.mtime.timestamp() < long_ago:
            filesystem.delete_file(info.path)
