"""Small parts become few: while actors write, each merges its own; at the end of a run, those that are left.

Actors on GPUs do not merge. They write raw parts, and tasks on any node make full parts of these during the run.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from emi_ray.part_rows import size_of
from emi_ray.parts import PartFolder, is_raw

PART_BYTES = 256 << 20
PART_ROWS = 8192
"""A part is full at so many bytes, or rows."""

MERGE_FROM = 32
"""So many small parts are worth merging at the end of a run; fewer are left as they are."""

PARTS_OF_A_WRITER = 64
"""Small parts that a writer leaves before it merges them, where they do not fill a part before."""


@dataclass
class Filling:
    """The parts of one writer, merged whenever they fill one part or are many.

    Each part is written at once and merged later, so that a killed writer loses none.
    """

    folder: PartFolder
    _parts: list[str] = field(default_factory=list)
    _bytes: int = 0

    def add(self, part: str | None, num_bytes: int) -> None:
        """A part was written; ``num_bytes``: of its features."""
        if part is None:
            return
        if part not in self._parts:
            self._parts.append(part)
        self._bytes += num_bytes
        if len(self._parts) > 1 and (self._bytes >= PART_BYTES or len(self._parts) >= PARTS_OF_A_WRITER):
            self.folder.merge(self._parts)
            self._parts, self._bytes = [], 0


def mergeable(folder: PartFolder) -> list[list[str]]:
    """Groups of parts to merge, each about one full part together: raw parts, and small ones where these are many."""
    sizes = _sizes(folder)
    raw = {path for path in sizes if is_raw(path)}
    if len(sizes) < MERGE_FROM:
        return _groups(raw, sizes, {})
    counts = {row["values"]: row["counts"] for row in folder.record()["part"].value_counts().to_pylist()}
    small = {p for p in sizes if sizes[p] < PART_BYTES / 2 and counts.get(p, PART_ROWS) < PART_ROWS / 2}
    groups = _groups(raw | small if len(small) >= MERGE_FROM else raw, sizes, counts)
    return [group for group in groups if len(group) > 1 or is_raw(group[0])]


def full_groups(folder: PartFolder, busy: Collection[str]) -> list[list[str]]:
    """Groups of raw parts that fill a part or are many, of those that are not ``busy``."""
    sizes = _sizes(folder)
    groups = _groups({path for path in sizes if is_raw(path) and path not in busy}, sizes, {})
    return [g for g in groups if sum(sizes[p] for p in g) >= PART_BYTES or len(g) >= PARTS_OF_A_WRITER]


def _sizes(folder: PartFolder) -> dict[str, int]:
    return {path: size_of(stamp) for path, stamp in folder.stamps().items()}


def _groups(paths: Iterable[str], sizes: Mapping[str, int], counts: Mapping[str, int]) -> list[list[str]]:
    """Paths in groups of one full part each; the last may be smaller."""
    groups: list[list[str]] = [[]]
    num_bytes = num_rows = 0
    for path in sorted(paths):
        groups[-1].append(path)
        num_bytes, num_rows = num_bytes + sizes[path], num_rows + counts.get(path, 0)
        if num_bytes >= PART_BYTES or num_rows >= PART_ROWS:
            groups.append([])
            num_bytes = num_rows = 0
    return [group for group in groups if group]
