"""A corpus without a table: every media file is a clip of the test split, for extraction and prediction."""

import os
from collections import Counter
from collections.abc import Sequence
from urllib.parse import unquote

import pyarrow as pa
from pyarrow import fs

from emi_ray.corpus.files import absolute, is_text, is_uri, join, kind_of, nothing_at, walk
from emi_ray.corpus.listing import Finding, Listing
from emi_ray.errors import UserError
from emi_ray.wording import plural

VIDEO_SUFFIXES = frozenset(
    ["3gp", "avi", "flv", "gif", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "mts", "ogv", "ts", "webm", "wmv"]
)
AUDIO_SUFFIXES = frozenset(["aac", "aif", "aiff", "flac", "m4a", "mp3", "oga", "ogg", "opus", "wav", "wma"])


def read_media(paths: Sequence[str]) -> Listing:
    """List the given media files, and all media files in and below the given folders.

    A clip's id is the name of its file without the suffix; with the suffix if two files share it; with parent
    folders if that is not enough. Other files (for example a ``transcripts.csv``) are ignored.

    Raises:
        UserError: a path does not exist or is not a media file, or a folder has none.
    """
    found: dict[str, None] = {}
    num_others = 0
    for path in map(absolute, paths):
        media, others = _media_at(path)
        found.update(dict.fromkeys(media))
        num_others += others
    files, nameless = list(filter(is_text, found)), [file for file in found if not is_text(file)]
    findings = []
    if num_others:
        findings.append(Finding("info", f"{plural(num_others, 'file')} without media: ignored."))
    if nameless:
        message = (
            f"{len(nameless):,} media files are left out, because their names are not UTF-8 text. Rename them, for "
            f"example {os.fsencode(nameless[0])!r}."
        )
        findings.append(Finding("warning", message))
    clips = pa.table(
        {
            "clip_id": _clip_ids(files),
            "split": pa.repeat("test", len(files)),
            "video": pa.array(
                [file if _suffix(file) in VIDEO_SUFFIXES else None for file in files], pa.string()
            ),
            "audio": pa.array(
                [file if _suffix(file) in AUDIO_SUFFIXES else None for file in files], pa.string()
            ),
        }
    )
    return Listing(clips, (), ", ".join(paths), verified=True, findings=tuple(findings))


def _media_at(path: str) -> tuple[list[str], int]:
    """Return the media files at or below a path, and the number of other files."""
    known = VIDEO_SUFFIXES | AUDIO_SUFFIXES
    kind = kind_of(path)
    if kind == fs.FileType.NotFound:
        raise UserError(f"{nothing_at(path)}.")
    names = walk(path) if kind == fs.FileType.Directory else [path]
    media = [name for name in names if _suffix(name) in known]
    if not media:
        place = "there is no media file" if kind == fs.FileType.Directory else "this is not a media file"
        raise UserError(
            f"{path}: {place}, judging by the suffix. Known suffixes: {', '.join(sorted(known))}."
        )
    if kind == fs.FileType.Directory:
        media = [join(path, name) for name in media]
    return media, len(names) - len(media)


def _plain(path: str) -> str:
    return unquote(path.partition("?")[0]) if is_uri(path) else path


def _suffix(path: str) -> str:
    return _plain(path).rpartition("/")[2].rpartition(".")[2].lower()


def _clip_ids(files: Sequence[str]) -> list[str]:
    """Return the shortest names that distinguish the files: stem, file name, ``folder/file name`` and so on."""
    parts = [_plain(file).split("/") for file in files]
    ids = [path[-1].rpartition(".")[0] or path[-1] for path in parts]
    for depth in range(1, max(map(len, parts), default=0) + 1):
        times = Counter(ids)
        if len(times) == len(ids):
            break
        ids = [
            "/".join(path[-depth:]) if times[clip_id] > 1 else clip_id
            for path, clip_id in zip(parts, ids, strict=True)
        ]
    return ids
