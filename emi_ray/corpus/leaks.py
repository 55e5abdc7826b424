"""Find the same clip under several names: equal media in two splits, and ids that differ only for a computer."""

import hashlib
import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc

from emi_ray.corpus.files import is_uri
from emi_ray.corpus.listing import Finding, Listing, about
from emi_ray.schema import GROUP, SPLITS

_MEDIA = ("video", "audio", "faces_dir", "openface_csv")
_COMPARED = ("video", "audio")
"""Columns whose content is compared; of the others only the paths are compared."""

_END_BYTES = 1 << 16
"""Files of equal size are first compared by this many bytes at both ends, and completely only if these are equal."""

_CHUNK_BYTES = 1 << 22
_NUM_THREADS = 8

Splits = Mapping[str, set[str]]
"""A path or hash → the splits in which it occurs."""


def check_leaks(listing: Listing) -> Iterator[Finding]:
    """Check that no media occur in several splits, whatever the files are named.

    Files behind URIs are compared only by their names, because reading them here would take hours.
    """
    clips, where = listing.clips, listing.where
    known = clips.filter(pc.and_(pc.is_in(clips["split"], pa.array(SPLITS)), pc.is_valid(clips["clip_id"])))
    splits = known["split"].to_pylist()
    if len(set(splits)) < 2:
        return
    for name in (name for name in _MEDIA if name in known.column_names):
        paths = known[name].to_pylist()
        standing = _splits_of(paths, splits)
        leaking = {path for path, found in standing.items() if len(found) > 1}
        if name in _COMPARED:
            leaking |= _same_content(standing)
        ids = [i for i, path in zip(known["clip_id"].to_pylist(), paths, strict=True) if path in leaking]
        message = f"{where}: {name}: the same content is in more than one split, so that scores are too high"
        yield from about("warning", message, ids)


def check_spelling(listing: Listing) -> Iterator[Finding]:
    """Report ids and groups that differ only in case, width, form of accents or invisible characters."""
    for column, what in (("clip_id", "clip"), (GROUP, "person")):
        if column not in listing.clips.column_names:
            continue
        alike = defaultdict(list)
        for name in listing.clips[column].drop_null().unique().to_pylist():
            alike[_as_seen(name)].append(name)
        several = [name for names in alike.values() if len(names) > 1 for name in names]
        if several:
            named = ", ".join(map(ascii, several[:4])) + (", …" if several[4:] else "")
            message = (
                f"{listing.where}: {column}: {named} differ only in case or in their Unicode form. If they mean the "
                f"same {what}, spell them alike; if not, note that some disks and programs treat them as equal."
            )
            yield Finding("warning", message)


def _as_seen(name: str) -> str:
    # Folding case can produce characters that are not normalised, so the form is normalised again.
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return "".join(letter for letter in plain if unicodedata.category(letter) != "Cf")


def _splits_of(values: Sequence[str | None], splits: Sequence[str]) -> dict[str, set[str]]:
    found = defaultdict(set)
    for value, split in zip(values, splits, strict=True):
        if value is not None:
            found[value].add(split)
    return found


def _same_content(standing: Splits) -> set[str]:
    """Return local files with equal content but different names that occur in several splits."""
    groups = [[path for path in standing if not is_uri(path)]]
    with ThreadPoolExecutor(_NUM_THREADS) as threads:
        # From the cheapest to the most expensive key: hardly any file is read as a whole.
        for key_of in (_size, _hash_ends, _hash_all):
            groups = [part for group in groups for part in _parted(group, key_of, standing, threads)]
    return {path for group in groups for path in group}


def _parted(
    paths: Sequence[str], key_of: Callable[[str], object], standing: Splits, threads: ThreadPoolExecutor
) -> Iterator[list[str]]:
    """Group files by ``key_of``, and yield the groups that occur in several splits."""
    parts = defaultdict(list)
    for path, key in zip(paths, threads.map(key_of, paths), strict=True):
        if key is not None:
            parts[key].append(path)
    for part in parts.values():
        if len(part) > 1 and len(set().union(*(standing[path] for path in part))) > 1:
            yield part


def _size(path: str) -> int | None:
    """Return the size; None if the file is empty or cannot be read, which other checks report."""
    try:
        return os.stat(path).st_size or None
    except OSError:
        return None


def _hash_ends(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            start = file.read(_END_BYTES)
            file.seek(max(os.fstat(file.fileno()).st_size - _END_BYTES, 0))
            return hashlib.blake2b(start + file.read()).digest()
    except OSError:
        return None


def _hash_all(path: str) -> bytes | None:
    digest = hashlib.blake2b()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError:
        return None
    return digest.digest()
