"""A workspace: one folder, on a local disk or behind any ``pyarrow.fs`` URI, that all verbs work on.

    emi_ray.yaml                          the configuration
    clips.parquet                         which clips, splits, media and labels
    features/<modality>/<fingerprint>/    what extractors produced
    index/                                which clips lie in which file; may be deleted at any time
    failures/                             what was quarantined, and why
    extractions/                          a record of each extraction
    runs/<recipe>/<seed>/                 trained models, their scores and predictions
    studies/                              hyper-parameter searches
    report/                               index.html, scores.json

Everything is written under another name and then renamed, so that a file either is whole or is not there.
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

from emi_ray.atomic_files import AtomicFile, sweep
from emi_ray.config import WorkspaceConfig
from emi_ray.driver_lock import driving
from emi_ray.errors import UserError
from emi_ray.reachability import require_in_reach
from emi_ray.schema import MEDIA_COLUMNS
from emi_ray.settings import dump_yaml, read_yaml, validate
from emi_ray.storage import open_uri, without_credentials

CONFIG = "emi_ray.yaml"
CLIPS = "clips.parquet"
EXTRACTIONS = "extractions"

_UPLOAD = "/runtime_resources/working_dir_files/"
"""Where a job of Ray finds what was uploaded with it."""


@dataclass(frozen=True)
class Workspace:
    """Files of one workspace, addressed by paths relative to its root (``runs/f2/42/metrics.json``)."""

    root: str

    @property
    def _was_sent(self) -> bool:
        """Whether another process, which has reached the store, has sent this workspace."""
        return bool(self.__dict__.get("_sent"))

    @cached_property
    def _place(self) -> tuple[fs.FileSystem, str]:
        place = open_uri(self.root)
        require_in_reach(*place, self.root, is_first=not self._was_sent)
        if _UPLOAD in place[1]:
            raise UserError(
                f"{self.root} lies in the upload of this job, which no other node sees and which is deleted after "
                f"it. Give an absolute path on a mount that all nodes share, or a URI such as s3://bucket/work."
            )
        return place

    def __getstate__(self) -> dict[str, Any]:
        """The file system is opened anew by whoever is sent a workspace: it has connections, and no patience left.
        Other processes may have another working directory, so that they are told the whole path."""
        return {"root": self.path() if self.is_local else self.root, "_sent": True}

    @property
    def quoted(self) -> str:
        """The root as a shell reads it: for commands that are printed."""
        return shlex.quote(self.root)

    @property
    def filesystem(self) -> fs.FileSystem:
        return self._place[0]

    @property
    def is_local(self) -> bool:
        """Whether the files lie on this machine's own disk (or one mounted on it)."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def path(self, relative: str = "") -> str:
        """The path of a file as ``filesystem`` spells it."""
        return str(PurePosixPath(self._place[1]) / relative)

    def shown(self, relative: str) -> str:
        """A file as a person names it: its path, or its URI without what stands behind ``?``."""
        return (
            self.path(relative) if self.is_local else f"{self.root.partition('?')[0].rstrip('/')}/{relative}"
        )

    def inner(self, relative: str) -> "Workspace":
        """A folder of this workspace as a workspace of its own."""
        root, question, query = self.root.partition("?")
        return Workspace(f"{root.rstrip('/')}/{relative}{question}{query}")

    def require_writable(self) -> None:
        """Refuse a place, there already or not, where no local workspace can be written (``UserError``)."""
        if not self.is_local:
            return
        place = Path(self.path())
        nearest = next(path for path in (place, *place.parents) if os.path.lexists(path))
        if not nearest.is_dir():
            raise UserError(f"{self.root}: {nearest} is no folder. Name another place for the workspace.")
        if not os.access(nearest, os.W_OK):
            raise UserError(
                f"{self.root} may not be written by this user. Check its owner, permissions and mount."
            )

    def exists(self, relative: str) -> bool:
        """Whether there is such a file."""
        if self.is_local:
            return self.filesystem.get_file_info(self.path(relative)).type == fs.FileType.File
        try:  # one request, where get_file_info makes a second to look for a folder
            self.filesystem.open_input_file(self.path(relative)).close()
        except FileNotFoundError:
            return False
        return True

    def files(self, relative: str, recursive: bool = False) -> list[str]:
        """Relative paths of the files (not folders) under a folder, sorted; none if the folder is not there."""
        selector = fs.FileSelector(self.path(relative), allow_not_found=True, recursive=recursive)
        start = len(self._place[1].rstrip("/")) + 1
        found = (info for info in self.filesystem.get_file_info(selector) if info.type == fs.FileType.File)
        return sorted(info.path[start:] for info in found if not info.base_name.startswith("."))

    def stamps(self, relative: str) -> dict[str, str]:
        """Relative path → size and time of change of each file under a folder, by one listing, sorted by path."""
        selector = fs.FileSelector(self.path(relative), allow_not_found=True)
        start = len(self._place[1].rstrip("/")) + 1
        found = (info for info in self.filesystem.get_file_info(selector) if info.type == fs.FileType.File)
        stamps = {i.path[start:]: f"{i.size}:{i.mtime_ns}" for i in found if not i.base_name.startswith(".")}
        return dict(sorted(stamps.items()))

    def folders(self, relative: str) -> list[str]:
        """Names of the folders directly under a folder, sorted; none if the folder is not there."""
        selector = fs.FileSelector(self.path(relative), allow_not_found=True)
        infos = self.filesystem.get_file_info(selector)
        return sorted(info.base_name for info in infos if info.type == fs.FileType.Directory)

    def delete(self, relative: str) -> None:
        """Remove a file or a folder; nothing happens if it is not there."""
        kind = self.filesystem.get_file_info(self.path(relative)).type
        if kind == fs.FileType.Directory:
            self.filesystem.delete_dir(self.path(relative))
        elif kind == fs.FileType.File:
            self.filesystem.delete_file(self.path(relative))

    def delete_file(self, relative: str) -> None:
        """Remove a file; nothing happens if it is not there."""
        with suppress(FileNotFoundError):
            self.filesystem.delete_file(self.path(relative))

    def read_bytes(self, relative: str) -> bytes:
        with self.filesystem.open_input_file(
            self.path(relative)
        ) as file:  # a stream asks for 256 KiB at a time
            return file.read()

    def write_bytes(self, relative: str, data: bytes) -> None:
        """Write a whole file; it appears atomically."""
        with self._appearing(relative) as target, self.filesystem.open_output_stream(target) as stream:
            stream.write(data)

    def read_text(self, relative: str) -> str:
        return self.read_bytes(relative).decode()

    def write_text(self, relative: str, text: str) -> None:
        self.write_bytes(relative, text.encode())

    def read_json(self, relative: str) -> Any:
        return json.loads(self.read_bytes(relative))

    def write_json(self, relative: str, value: Any) -> None:
        self.write_text(relative, json.dumps(value, indent=2) + "\n")

    def read_table(self, relative: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A small Parquet file. Behind a URI it is read whole, by two requests."""
        if not self.is_local:
            return pq.read_table(pa.BufferReader(self.read_bytes(relative)), columns=columns)
        return pq.read_table(
            self.path(relative), filesystem=self.filesystem, columns=columns, partitioning=None
        )

    def open_table(self, relative: str, metadata: pq.FileMetaData | None = None) -> pq.ParquetFile:
        """A Parquet file whose row groups are read one by one; the caller closes it.

        Args:
            metadata: of that very file, where it is known; it is not read again then.
        """
        return pq.ParquetFile(
            self.path(relative), filesystem=self.filesystem, metadata=metadata, pre_buffer=True
        )

    def write_table(self, relative: str, table: pa.Table) -> None:
        """Write a Parquet file; it appears atomically."""
        self.write_tables(relative, table.schema, [table])

    def write_tables(self, relative: str, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
        """Write a Parquet file of one row group a table; it appears atomically.

        LZ4, since features hardly compress: they are read twice as fast as from Zstandard, and 9 % larger. Without
        statistics, which took two fifths of the time of writing float16.
        """
        with (
            self._appearing(relative) as target,
            pq.ParquetWriter(
                target,
                schema,
                filesystem=self.filesystem,
                compression="lz4",
                use_dictionary=False,
                write_statistics=False,
            ) as writer,
        ):
            for table in tables:
                writer.write_table(table, row_group_size=max(table.num_rows, 1))

    def config(self, overrides: Sequence[str] = ()) -> WorkspaceConfig:
        """The checked configuration, with ``section.key=value`` overrides applied.

        Raises:
            UserError: there is no workspace here, or a setting is wrong.
        """
        try:
            text = self.read_text(CONFIG)
        except FileNotFoundError:
            raise UserError(
                f"No workspace at {self.root}: {CONFIG} is not there. Make one with emi-ray init."
            ) from None
        values = read_yaml(without_credentials(text), self.shown(CONFIG))
        return validate(WorkspaceConfig, values, self.shown(CONFIG), overrides)

    def write_config(self, config: WorkspaceConfig) -> None:
        self.write_text(CONFIG, dump_yaml(config))

    def clips(self, columns: Sequence[str] | None = None) -> pa.Table:
        """``clips.parquet``.

        Raises:
            UserError: the workspace has no corpus yet.
        """
        try:
            return _without_stored_credentials(self.read_table(CLIPS, columns))
        except FileNotFoundError:
            raise UserError(f"{self.root} has no {CLIPS}: read a corpus into it with emi-ray init.") from None

    @contextmanager
    def driving(self, relative: str, what: str, instead: str = "") -> Iterator[None]:
        """While the block lasts, no other process drives what lies in the folder ``relative``.

        Raises:
            UserError: another process does; ``what`` begins the message, ``instead`` is one more way out.
        """
        with driving(self.filesystem, self.path(f"{relative}/.driver"), what, instead):
            yield

    def sweep(self, relative: str) -> None:
        """Remove the half-written files that a killed process left under a folder more than an hour ago."""
        if self.is_local:
            sweep(self.filesystem, self.path(relative))

    def _appearing(self, relative: str) -> AtomicFile:
        # A file of an object store appears only when it is complete: no detour is needed.
        return AtomicFile(self.filesystem, self.path(relative), detour=self.is_local)


def _without_stored_credentials(clips: pa.Table) -> pa.Table:
    """URIs that were stored with credentials before these were refused, without them."""
    for name in set(MEDIA_COLUMNS) - {"transcript"}:
        if name in clips.column_names and pc.any(pc.match_substring(clips[name], "@")).as_py():
            plain = [path and without_credentials(path) for path in clips[name].to_pylist()]
            place = clips.column_names.index(name)
            clips = clips.set_column(
                place, clips.schema.field(name), pa.chunked_array([plain], clips[name].type)
            )
    return clips


WorkspaceLike = Workspace | str | os.PathLike[str]


def workspace_of(given: WorkspaceLike) -> Workspace:
    """The workspace that a path, a URI or a workspace names."""
    return given if isinstance(given, Workspace) else Workspace(os.fspath(given))


def suffix_of(path: str) -> str:
    """The suffix of a local path's or URI's file, in lower case with its dot; a ``?query`` is no part of it."""
    plain = path.partition("?")[0] if "://" in path else path
    return PurePosixPath(plain).suffix.lower()
