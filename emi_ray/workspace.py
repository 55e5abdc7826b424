"""A workspace: one folder, on a local disk or behind any ``pyarrow.fs`` URI, that all commands work on.

    emi_ray.yaml                          the configuration
    clips.parquet                         clips with splits, media and labels
    features/<modality>/<fingerprint>/    extracted features
    index/                                index of the feature files; may be deleted at any time
    failures/                             quarantined clips with reasons
    extractions/                          a record of each extraction
    runs/<recipe>/<seed>/                 trained models, their scores and predictions
    studies/                              hyper-parameter searches
    report/                               index.html, scores.json

Every file is written under another name and renamed, so that it is either complete or does not exist.
"""

import json
import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from emi_ray.atomic_files import AtomicFile, read_whole, sweep
from emi_ray.config import WorkspaceConfig
from emi_ray.damage import naming_damage
from emi_ray.driver_lock import driving
from emi_ray.errors import UserError
from emi_ray.reachability import require_in_reach
from emi_ray.schema import MEDIA_COLUMNS
from emi_ray.settings import dump_yaml, read_yaml, validate
from emi_ray.storage import open_uri, without_credentials

CONFIG = "emi_ray.yaml"
CLIPS = "clips.parquet"
EXTRACTIONS = "extractions"

_PARQUET: dict[str, Any] = {"compression": "lz4", "use_dictionary": False, "write_statistics": False}

_UPLOAD = "/runtime_resources/working_dir_files/"
"""Part of the path of files that were uploaded with a Ray job."""


@dataclass(frozen=True)
class Workspace:
    """Files of one workspace, addressed by paths relative to its root (``runs/f2/42/metrics.json``)."""

    root: str

    @cached_property
    def _place(self) -> tuple[fs.FileSystem, str]:
        place = open_uri(self.root)
        # A process that has sent this workspace has reached the storage.
        require_in_reach(*place, self.root, is_first="_sent" not in self.__dict__)
        if _UPLOAD in place[1]:
            raise UserError(
                f"{self.root} is in the upload of this job, which other nodes cannot read and which is deleted after "
                f"the job. Give an absolute path on a mount that all nodes share, or a URI such as s3://bucket/work."
            )
        return place

    def __getstate__(self) -> dict[str, Any]:
        """Return what other processes need: an absolute path, since their working directory may differ; they reopen
        the files.
        """
        return {"root": self.path() if self.is_local else self.root, "_sent": True}

    @property
    def quoted(self) -> str:
        """The root, quoted for a shell, for commands that are printed."""
        return shlex.quote(self.root)

    @property
    def filesystem(self) -> fs.FileSystem:
        return self._place[0]

    @property
    def is_local(self) -> bool:
        """Whether the files are on a disk of this machine, or one mounted on it."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def path(self, relative: str = "") -> str:
        """Return the path of a file in the spelling of ``filesystem``."""
        return str(PurePosixPath(self._place[1]) / relative)

    def shown(self, relative: str) -> str:
        """Return the path of a file for users, or its URI without the options after ``?``."""
        return (
            self.path(relative) if self.is_local else f"{self.root.partition('?')[0].rstrip('/')}/{relative}"
        )

    def inner(self, relative: str) -> "Workspace":
        """Return a folder of this workspace as a workspace."""
        root, question, query = self.root.partition("?")
        return Workspace(f"{root.rstrip('/')}/{relative}{question}{query}")

    def require_writable(self) -> None:
        """Check that a local workspace can be written, whether it exists or not (raises ``UserError``)."""
        if not self.is_local:
            return
        place = Path(self.path())
        nearest = next(path for path in (place, *place.parents) if os.path.lexists(path))
        if not nearest.is_dir():
            raise UserError(f"{self.root}: {nearest} is not a folder. Give another path for the workspace.")
        if not os.access(nearest, os.W_OK):
            raise UserError(
                f"{self.root} is not writable for this user. Check its owner, permissions and mount."
            )

    def exists(self, relative: str) -> bool:
        """Return whether there is such a file."""
        if self.is_local:
            return self.filesystem.get_file_info(self.path(relative)).type == fs.FileType.File
        try:  # a single request; get_file_info makes a second one to look for a folder
            self.filesystem.open_input_file(self.path(relative)).close()
        except FileNotFoundError:
            return False
        return True

    def files(self, relative: str, recursive: bool = False) -> list[str]:
        """Return the relative paths of the files under a folder, sorted; empty if the folder does not exist."""
        selector = fs.FileSelector(self.path(relative), allow_not_found=True, recursive=recursive)
        start = len(self._place[1].rstrip("/")) + 1
        found = (info for info in self.filesystem.get_file_info(selector) if info.type == fs.FileType.File)
        return sorted(info.path[start:] for info in found if not info.base_name.startswith("."))

    def stamps(self, relative: str) -> dict[str, str]:
        """Return relative path → size and modification time of each file under a folder, sorted by path."""
        selector = fs.FileSelector(self.path(relative), allow_not_found=True)
        start = len(self._place[1].rstrip("/")) + 1
        found = (info for info in self.filesystem.get_file_info(selector) if info.type == fs.FileType.File)
        stamps = {i.path[start:]: f"{i.size}:{i.mtime_ns}" for i in found if not i.base_name.startswith(".")}
        return dict(sorted(stamps.items()))

    def folders(self, relative: str) -> list[str]:
        """Return the names of the folders directly under a folder, sorted; empty if the folder does not exist."""
        selector = fs.FileSelector(self.path(relative), allow_not_found=True)
        infos = self.filesystem.get_file_info(selector)
        return sorted(info.base_name for info in infos if info.type == fs.FileType.Directory)

    def delete(self, relative: str) -> None:
        """Remove a file or a folder, if it exists."""
        kind = self.filesystem.get_file_info(self.path(relative)).type
        if kind == fs.FileType.Directory:
            self.filesystem.delete_dir(self.path(relative))
        elif kind == fs.FileType.File:
            self.filesystem.delete_file(self.path(relative))

    def delete_file(self, relative: str) -> None:
        """Remove a file, if it exists."""
        with suppress(FileNotFoundError):
            self.filesystem.delete_file(self.path(relative))

    def read_bytes(self, relative: str, size: int | None = None) -> bytes:
        """Return the content of a file; see :func:`~emi_ray.atomic_files.read_whole`."""
        return read_whole(self.filesystem, self.path(relative), size)

    def write_bytes(self, relative: str, data: bytes) -> None:
        """Write a file atomically."""
        with self._appearing(relative) as target, self.filesystem.open_output_stream(target) as stream:
            stream.write(data)

    def read_text(self, relative: str) -> str:
        return self.read_bytes(relative).decode()

    def write_text(self, relative: str, text: str) -> None:
        self.write_bytes(relative, text.encode())

    def read_json(self, relative: str) -> Any:
        data = self.read_bytes(relative)
        with naming_damage(self.shown(relative)):
            return json.loads(data)

    def write_json(self, relative: str, value: Any) -> None:
        self.write_text(relative, json.dumps(value, indent=2) + "\n")

    def read_table(self, relative: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Read a small Parquet file. Behind a URI the whole file is read, with three requests."""
        source = self.path(relative) if self.is_local else pa.BufferReader(self.read_bytes(relative))
        with naming_damage(self.shown(relative)):
            return pq.read_table(source, columns=columns, partitioning=None)

    @contextmanager
    def open_table(
        self, relative: str, metadata: pq.FileMetaData | None = None, size: int | None = None
    ) -> Iterator[pq.ParquetFile]:
        """Open a Parquet file, to read its row groups one by one.

        Args:
            metadata: metadata of this file if known; then they are not read again.
            size: size in bytes of a file that is read at once, since a request for each column would cost more.

        Raises:
            DamagedFileError: the file, or what is read from it in the ``with`` block, is damaged.
        """
        source = self.path(relative) if size is None else pa.BufferReader(self.read_bytes(relative, size))
        filesystem = self.filesystem if size is None else None
        with (
            naming_damage(self.shown(relative), is_remote=size is None and not self.is_local),
            pq.ParquetFile(source, metadata=metadata, pre_buffer=True, filesystem=filesystem) as file,
        ):
            yield file

    def write_table(self, relative: str, table: pa.Table) -> None:
        """Write a Parquet file atomically, so that it outlasts a power failure."""
        self.write_tables(relative, table.schema, [table], is_flushed=True)

    def write_tables(
        self, relative: str, schema: pa.Schema, tables: Iterable[pa.Table], is_flushed: bool = False
    ) -> None:
        """Write a Parquet file atomically, with one row group per table.

        LZ4 is used because features hardly compress: they are read twice as fast as with Zstandard, and are 9 %
        larger. There are no statistics, because these took two fifths of the time of writing float16.
        """
        with (
            self._appearing(relative, is_flushed) as target,
            pq.ParquetWriter(target, schema, filesystem=self.filesystem, **_PARQUET) as writer,
        ):
            for table in tables:
                writer.write_table(table, row_group_size=max(table.num_rows, 1))

    def config(self, overrides: Sequence[str] = ()) -> WorkspaceConfig:
        """Return the validated configuration, with ``section.key=value`` overrides applied.

        Raises:
            UserError: there is no workspace, or a setting is invalid.
        """
        try:
            text = self.read_text(CONFIG)
        except FileNotFoundError:
            raise UserError(
                f"No workspace at {self.root}: {CONFIG} does not exist. Create one with emi-ray init."
            ) from None
        values = read_yaml(without_credentials(text), self.shown(CONFIG))
        return validate(WorkspaceConfig, values, self.shown(CONFIG), overrides)

    def write_config(self, config: WorkspaceConfig) -> None:
        self.write_text(CONFIG, dump_yaml(config))

    def clips(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Read ``clips.parquet``.

        Raises:
            UserError: the workspace has no corpus yet.
        """
        try:
            return _without_stored_credentials(self.read_table(CLIPS, columns))
        except FileNotFoundError:
            raise UserError(f"{self.root} has no {CLIPS}: read a corpus into it with emi-ray init.") from None

    @contextmanager
    def driving(self, relative: str, what: str, instead: str = "") -> Iterator[None]:
        """Ensure that no other process works on the folder ``relative`` while the ``with`` block runs.

        Raises:
            UserError: another process does; ``what`` begins the message, and ``instead`` is a further remedy.
        """
        with driving(self.filesystem, self.path(f"{relative}/.driver"), what, instead):
            yield

    def sweep(self, relative: str) -> None:
        """Remove incomplete files under a folder that a killed process left more than an hour ago."""
        if self.is_local:
            sweep(self.filesystem, self.path(relative))

    def _appearing(self, relative: str, is_flushed: bool = True) -> AtomicFile:
        # A file in an object store appears only when it is complete, so no other name is needed.
        return AtomicFile(self.filesystem, self.path(relative), self.is_local, is_flushed)


def _without_stored_credentials(clips: pa.Table) -> pa.Table:
    """Remove credentials from URIs that were stored before credentials were refused."""
    for name in set(MEDIA_COLUMNS) - {"transcript"}:
        if name in clips.column_names and pc.any(pc.match_substring(clips[name], "@")).as_py():
            plain = [path and without_credentials(path) for path in clips[name].to_pylist()]
            place = clips.column_names.index(name)
            clips = clips.set_column(place, clips.schema.field(name), pa.array(plain, clips[name].type))
    return clips


WorkspaceLike = Workspace | str | os.PathLike[str]


def workspace_of(given: WorkspaceLike) -> Workspace:
    """Return the workspace for a path, a URI or a workspace."""
    return given if isinstance(given, Workspace) else Workspace(os.fspath(given))


def suffix_of(path: str) -> str:
    """Return the suffix of a path or URI, in lower case with its dot, without a ``?query``."""
    plain = path.partition("?")[0] if "://" in path else path
    return PurePosixPath(plain).suffix.lower()
