"""Merge small parts: each actor merges its own while it writes, and the rest is merged at the end of a run.

Actors on GPUs do not merge. They write raw parts, which tasks on any node merge into full parts during the run.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from emi_ray.store.part_listing import is_raw
from emi_ray.store.part_rows import size_of
from emi_ray.store.parts import PartFolder

PART_BYTES = 256 << 20
PART_ROWS = 8192
"""A part with this many bytes is full. At the end of a run, one with this many rows is full too."""

MERGE_FROM = 32
"""Minimum number of small parts that are merged at the end of a run."""

PARTS_OF_A_WRITER = 64
"""Maximum number of small parts of a writer before it merges them, even if they do not fill a part."""


@dataclass
class Filling:
    """The parts of one writer, which are merged whenever they fill a part or are many.

    Each part is written at once and merged later, so that a killed writer loses none.
    """

    folder: PartFolder
    _parts: list[str] = field(default_factory=list)
    _bytes: int = 0

    def add(self, part: str | None, num_bytes: int) -> None:
        """Register a part that was written, with ``num_bytes`` of features."""
        if part is None:
            return
        # A repeated task replaces its own part, which then has the same name.
        if part not in self._parts:
            self._parts.append(part)
        self._bytes += num_bytes
        if len(self._parts) > 1 and (self._bytes >= PART_BYTES or len(self._parts) >= PARTS_OF_A_WRITER):
            self.folder.merge(self._parts)
            self._parts, self._bytes = [], 0


def mergeable(folder: PartFolder) -> list[list[str]]:
    """Return groups of parts to merge, each about one full part: raw parts, and small ones if there are many."""
    sizes = _sizes(folder)
    raw = {path for path in sizes if is_raw(path)}
    # Counting rows reads the record, which is not worth it for a few parts.
    if len(sizes) < MERGE_FROM:
        return _groups(raw, sizes, {})
    # A part that the record lacks counts as full in rows, and is left alone.
    counts = {row["values"]: row["counts"] for row in folder.record()["part"].value_counts().to_pylist()}
    small = {p for p in sizes if sizes[p] < PART_BYTES / 2 and counts.get(p, PART_ROWS) < PART_ROWS / 2}
    groups = _groups(raw | small if len(small) >= MERGE_FROM else raw, sizes, counts)
    # A single part would only be rewritten, unless it is raw and has to be converted.
    return [group for group in groups if len(group) > 1 or is_raw(group[0])]


def full_groups(folder: PartFolder, busy: Collection[str]) -> list[list[str]]:
    """Return groups of raw parts that are not ``busy`` and that fill a part or are many."""
    sizes = _sizes(folder)
    groups = _groups({path for path in sizes if is_raw(path) and path not in busy}, sizes, {})
    return [g for g in groups if sum(sizes[p] for p in g) >= PART_BYTES or len(g) >= PARTS_OF_A_WRITER]


def _sizes(folder: PartFolder) -> dict[str, int]:
    return {path: size_of(stamp) for path, stamp in folder.stamps().items()}


def _groups(paths: Iterable[str], sizes: Mapping[str, int], counts: Mapping[str, int]) -> list[list[str]]:
    """Group paths so that each group is one full part; the last may be smaller."""
    groups: list[list[str]] = [[]]
    num_bytes = num_rows = 0
    # The order is fixed, so that a repeated merge makes the same groups and finds its finished parts.
    for path in sorted(paths):
        groups[-1].append(path)
        num_bytes, num_rows = num_bytes + sizes[path], num_rows + counts.get(path, 0)
        if num_bytes >= PART_BYTES or num_rows >= PART_ROWS:
            groups.append([])
            num_bytes = num_rows = 0
    return [group for group in groups if group]
