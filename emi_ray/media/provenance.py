"""Identify the inputs that a clip's features were made from, to detect changes.

Each input is identified by its column and the size and modification time of its file; a transcript by a hash of the
text. This *stamp* needs only a look into the folder. If it differs from that of the features, the files are read
and their *content* is compared, so that a file that was only copied or touched does not count as changed.

Of a file larger than 64 MiB, 64 samples of 1 MiB are hashed. Files behind a URI are not read again: size and time
are compared there.
"""

import hashlib
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs

from emi_ray.errors import UserError
from emi_ray.schema import Need
from emi_ray.workspace import open_uri

ABSENT = "absent"
"""The file does not exist."""

UNSEEN = "unseen"
"""Whether the file exists is unknown: no access, or no connection."""

NONE = "none"
"""The corpus has no such input."""

_SAMPLED_FROM = 64 << 20
_SAMPLES = 64
_SAMPLE_BYTES = 1 << 20
_THREADS = 16
_CHUNK = 4096


@dataclass
class Inputs:
    """The present inputs of clips. Each file is looked up only once, whatever is asked for.

    Args:
        clips: ``clip_id`` and the media columns, with the transcripts of the corpus.
    """

    clips: pa.Table
    _stamps: dict[str, pa.Array] = field(default_factory=dict)

    def stamps(self, needs: Iterable[Need], recognises: bool = False) -> pa.Array:
        """Return for each clip the stamp of the inputs that an extractor with these ``needs`` reads.

        Args:
            recognises: whether the speech of clips without a transcript is recognised.
        """
        parts = [self._of(need, recognises) for need in sorted(needs)]
        joined = parts[0] if len(parts) == 1 else pc.binary_join_element_wise(*parts, ";")
        return joined.combine_chunks() if isinstance(joined, pa.ChunkedArray) else joined

    def _of(self, need: Need, recognises: bool) -> pa.Array:
        """Return the stamp of the file or text for a need, chosen in the same way as by decoding."""
        video, audio, faces = (self.clips[name] for name in ("video", "audio", "faces_dir"))
        if need == "transcript":
            given = self._column("transcript")
            return (
                pc.if_else(pc.is_valid(self.clips["transcript"]), given, self._of("waveform", False))
                if recognises
                else given
            )
        if need == "openface_csv":
            return self._column("openface_csv")
        if need == "faces":
            return pc.if_else(pc.is_valid(faces), self._column("faces_dir"), self._column("video"))
        if need == "waveform":
            # An audio file that equals the video counts as the video, like in decoding.
            own = pc.and_(pc.is_valid(audio), pc.fill_null(pc.not_equal(audio, video), True))
            return pc.if_else(own, self._column("audio"), self._column("video"))
        return self._column("video")

    def _column(self, name: str) -> pa.Array:
        if name not in self._stamps:
            column = self.clips[name].combine_chunks()
            values = column.to_pylist()
            if name == "transcript":
                stamps = [NONE if text is None else _hash(text.encode()) for text in values]
            else:
                stamps = _file_stamps(values)
            self._stamps[name] = pa.array([f"{name}:{stamp}" for stamp in stamps], pa.string())
        return self._stamps[name]


def content_of(stamp: str, clip: Mapping[str, Any]) -> str:
    """Return the hash of the content of a stamp's inputs, 16 hexadecimal digits.

    "" if a file does not match the stamp any more or cannot be read.

    Args:
        clip: a row with the media columns.
    """
    contents = []
    for part in stamp.split(";"):
        column, _, own = part.partition(":")
        if column == "transcript" or own in (ABSENT, UNSEEN, NONE) or "://" in clip[column]:
            contents.append(part)
            continue
        try:
            # The file may have changed again since it was looked up; then its content does not belong to the stamp.
            same = _stamp_of(clip[column]) == own
            content = _content(clip[column]) if same else None
        except OSError:
            content = None
        if content is None:
            return ""
        contents.append(f"{column}={content}")
    return _hash(";".join(contents).encode())


def contents_of(stamps: Sequence[str], clips: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return :func:`content_of` of many clips, computed in threads."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(content_of, stamps, clips))


def difference(before: str, now: str) -> str:
    """Describe the difference between two stamps."""
    then, today = _named(before), _named(now)
    words = []
    for column, stamp in today.items():
        if column not in then:
            words.append(f"{_NAMES[column]} is read now" if stamp != NONE else f"{_NAMES[column]} is gone")
        elif then[column] != stamp:
            words.append(f"{_NAMES[column]} {_change(then[column], stamp)}")
    return ", ".join(words) or "another input is read now"


_NAMES = {
    "video": "the video file",
    "audio": "the sound file",
    "transcript": "the transcript",
    "faces_dir": "the folder of face images",
    "openface_csv": "the OpenFace CSV",
}


def _change(then: str, now: str) -> str:
    if then in (NONE, ABSENT):
        return "was supplied"
    return "was taken out of the corpus" if now == NONE else "changed"


def _named(stamp: str) -> dict[str, str]:
    return {part.partition(":")[0]: part.partition(":")[2] for part in stamp.split(";") if part}


def _file_stamps(paths: Sequence[str | None]) -> list[str]:
    remote = [path for path in paths if path is not None and "://" in path]
    found = _remote_stamps(remote) if remote else {}

    def stamp(path: str | None) -> str:
        if path is None:
            return NONE
        return found.get(path, UNSEEN) if "://" in path else _local_stamp(path)

    # A task per chunk, because a task per file would cost more than looking up the file.
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    with ThreadPoolExecutor(_THREADS) as pool:
        return [each for chunk in pool.map(lambda part: list(map(stamp, part)), chunks) for each in chunk]


def _local_stamp(path: str) -> str:
    try:
        return _stamp_of(path)
    except (FileNotFoundError, NotADirectoryError):
        return ABSENT
    except (OSError, ValueError):  # a name with a null byte is a ValueError
        return UNSEEN


def _stamp_of(path: str) -> str:
    found = os.stat(path)
    if not stat.S_ISDIR(found.st_mode):
        return f"{found.st_size}:{found.st_mtime_ns}"
    with os.scandir(path) as entries:
        files = sorted((e.name, e.stat().st_size, e.stat().st_mtime_ns) for e in entries if e.is_file())
    return f"{len(files)}:{_hash(repr(files).encode())}"


def _remote_stamps(uris: Sequence[str]) -> dict[str, str]:
    """Return stamps by URI.

    Each parent folder is listed once; folders that belong to a clip are listed one by one.
    """
    by_parent: dict[str, list[str]] = {}
    for uri in uris:
        by_parent.setdefault(uri.partition("?")[0].rpartition("/")[0], []).append(uri)
    stamps: dict[str, str] = {}
    for group in by_parent.values():
        try:
            filesystem, first = open_uri(group[0])
            parent = first.rpartition("/")[0]
            infos = filesystem.get_file_info(fs.FileSelector(parent, allow_not_found=True))
        except (UserError, OSError, ValueError):
            continue
        held = {info.path: info for info in infos}
        for uri in group:
            stamps[uri] = _remote_stamp(filesystem, held.get(open_uri(uri)[1]))
    return stamps


def _remote_stamp(filesystem: fs.FileSystem, info: fs.FileInfo | None) -> str:
    if info is None:
        return ABSENT
    if info.type == fs.FileType.File:
        return f"{info.size}:{info.mtime_ns}"
    inner = filesystem.get_file_info(fs.FileSelector(info.path))
    files = sorted((each.base_name, each.size, each.mtime_ns) for each in inner)
    return f"{len(files)}:{_hash(repr(files).encode())}"


def _content(path: str) -> str:
    """Return the hash of a local file, or of the names and contents of a folder's files."""
    if not os.path.isdir(path):
        return _file_content(path)
    with os.scandir(path) as entries:
        names = sorted(entry.name for entry in entries if entry.is_file())
    return _hash(repr([(name, _file_content(os.path.join(path, name))) for name in names]).encode())


def _file_content(path: str) -> str:
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        return "no file"
    digest = hashlib.blake2b(digest_size=8)
    # Reads are large, so a buffer would only add a copy.
    with open(path, "rb", buffering=0) as stream:
        if found.st_size <= _SAMPLED_FROM:
            return hashlib.file_digest(stream, lambda: digest).hexdigest()
        # The samples do not cover the whole file, so its size is hashed too.
        digest.update(str(found.st_size).encode())
        for sample in range(_SAMPLES):
            # The first sample is at the start of the file and the last one ends at its end.
            stream.seek((found.st_size - _SAMPLE_BYTES) * sample // (_SAMPLES - 1))
            digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()
