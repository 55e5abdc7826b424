"""Small parts become few: while actors write, each merges its own; at the end of a run, those that are left."""

from dataclasses import dataclass, field

from emi_ray.parts import PartFolder

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
    """Groups of small parts, each about one full part together; none where there are few small ones."""
    sizes = {path: int(stamp.partition(":")[0]) for path, stamp in folder.stamps().items()}
    if len(sizes) < MERGE_FROM:
        return []
    counts = {row["values"]: row["counts"] for row in folder.record()["part"].value_counts().to_pylist()}
    small = [p for p in sizes if sizes[p] < PART_BYTES / 2 and counts.get(p, PART_ROWS) < PART_ROWS / 2]
    if len(small) < MERGE_FROM:
        return []
    groups: list[list[str]] = [[]]
    num_bytes = num_rows = 0
    for path in small:
        groups[-1].append(path)
        num_bytes, num_rows = num_bytes + sizes[path], num_rows + counts[path]
        if num_bytes >= PART_BYTES or num_rows >= PART_ROWS:
            groups.append([])
            num_bytes = num_rows = 0
    return [group for group in groups if len(group) > 1]
