"""The locations of a clip's files, and how they are opened."""

import io
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO, cast

from pyarrow import NativeFile, fs

from emi_ray.errors import UserError
from emi_ray.storage import StorageError, explain, is_outage, open_uri


@dataclass(frozen=True)
class ClipSource:
    """One clip of a corpus.

    Attributes:
        video, audio: local paths, ``pyarrow.fs`` URIs or the bytes of a file.
        transcript: the text.
        faces_dir: a folder of existing face crops.
        openface_csv: a path or URI.
    """

    clip_id: str
    video: str | bytes | None = None
    audio: str | bytes | None = None
    transcript: str | None = None
    faces_dir: str | None = None
    openface_csv: str | None = None


class UnreadableError(Exception):
    """A file cannot be opened. The message is written for users."""


def open_media(media: str | bytes) -> BinaryIO:
    """Open a local path, a ``pyarrow.fs`` URI or bytes as a seekable file object.

    Raises:
        UnreadableError: the file does not exist, is not a file, is empty, or access is denied.
        StorageError: the storage cannot be reached, which is not a fault of this file.
    """
    if isinstance(media, bytes):
        return _unless_empty(io.BytesIO(media), len(media))
    filesystem, path = _locate(media)
    try:
        kind = filesystem.get_file_info(path).type
        if kind == fs.FileType.NotFound:
            raise UnreadableError(f"file not found: {media}")
        if kind == fs.FileType.Directory:
            raise UnreadableError(f"a folder stands where a file is expected: {media}")
        if kind == fs.FileType.Unknown:  # reading a pipe could block forever
            raise UnreadableError(f"a pipe, socket or device stands where a file is expected: {media}")
        if isinstance(filesystem, fs.LocalFileSystem):
            stream = cast(BinaryIO, open(path, "rb"))  # noqa: SIM115 - the caller closes it
        else:
            stream = cast(BinaryIO, _RemoteFile(filesystem.open_input_file(path)))
        return _unless_empty(stream, stream.seek(0, io.SEEK_END))
    except OSError as error:
        raise_if_outage(error)
        raise UnreadableError(f"{media} cannot be read: {_in_words(error)}") from error


def read_text(uri: str) -> str:
    """Return the content of a text file.

    Raises:
        UnreadableError: as :func:`open_media`.
    """
    with open_media(uri) as stream:
        return stream.read().decode("utf-8-sig", errors="replace")


def read_folder(uri: str) -> "Folder":
    """List the files directly in a folder.

    Raises:
        UnreadableError: the folder does not exist, or cannot be listed.
        StorageError: the storage cannot be reached.
    """
    filesystem, path = _locate(uri)
    try:
        infos = filesystem.get_file_info(fs.FileSelector(path))
        names = [info.base_name for info in infos if info.type == fs.FileType.File]
    except OSError as error:
        raise_if_outage(error)
        reason = "folder not found" if isinstance(error, FileNotFoundError) else _in_words(error)
        raise UnreadableError(f"{reason}: {uri}") from error
    except UnicodeDecodeError as error:
        raise UnreadableError(f"a file's name is not UTF-8 text, in the folder {uri}") from error
    return Folder(filesystem, path, tuple(names))


@dataclass(frozen=True)
class Folder:
    """A folder and the ``names`` of its files, in no particular order."""

    filesystem: fs.FileSystem
    path: str
    names: tuple[str, ...]

    def read(self, name: str) -> bytes:
        with self.filesystem.open_input_stream(str(PurePosixPath(self.path) / name)) as stream:
            return stream.read()


class _RemoteFile(io.BufferedIOBase):
    """A file of an object store.

    FFmpeg's callers treat an ``OSError`` as the end of the file, so an outage is raised as another type that they
    pass on.
    """

    def __init__(self, file: NativeFile) -> None:
        self._file = file

    def read(self, size: int | None = -1, /) -> bytes:
        try:
            return bytes(self._file.read(None if size is None or size < 0 else size))
        except OSError as error:
            raise_if_outage(error)
            raise

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()


def raise_if_outage(error: OSError) -> None:
    """Raise an error if the storage as a whole is unreachable.

    Raises:
        StorageError: the cause of ``error`` is the storage and not a single file.
    """
    if is_outage(error):
        raise StorageError(explain(error)) from error


def _locate(uri: str) -> tuple[fs.FileSystem, str]:
    try:
        return open_uri(uri)
    except UserError as error:
        raise UnreadableError(f"cannot be opened: {error}") from error
    except (ValueError, OSError) as error:
        raise UnreadableError(f"{uri} cannot be opened: {_in_words(error)}") from error


def _unless_empty(stream: BinaryIO, num_bytes: int) -> BinaryIO:
    if num_bytes == 0:
        stream.close()
        raise UnreadableError("the file is empty (0 bytes)")
    stream.seek(0)
    return stream


def _in_words(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
