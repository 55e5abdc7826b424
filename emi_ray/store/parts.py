"""A folder of Parquet parts that appear atomically: read, remove and merge rows.

The rows in the parts are the only record of finished work. An index (``part_index.py``) repeats them, so that
resuming and training open one file instead of thousands; parts that are not in the index are opened.

A new part is written before an old one is deleted, so that a kill in between duplicates rows, but never loses any.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from emi_ray.memory import drop_pages
from emi_ray.store.part_index import PartIndex
from emi_ray.store.part_listing import PART, list_parts, remove_empty_parts
from emi_ray.store.part_rows import digest_of, grouped, in_order, only_first, repeats_by_part, size_of
from emi_ray.store.read_ahead import TABLES_AHEAD, ahead
from emi_ray.store.vanishing import tables_until_none_vanishes, until_none_vanishes
from emi_ray.workspace import Workspace

GROUP_BYTES = 32 << 20
"""Size of a row group of a merged part, which readers load at once."""

_INDEX_FROM, _THREADS = 8, 32  # the index is rewritten when it lacks at least _INDEX_FROM parts


@dataclass(frozen=True)
class PartFolder:
    """The parts in one folder of a workspace.

    Attributes:
        schema: columns of the record, ``clip_id`` first.
        modern: converts a table of any older layout to the present one; its second argument has the wanted columns,
            None for all.
        keeps_attempts: a clip has one row for each attempt. Otherwise it has one row; if a crash has left several,
            the first one counts, and the others are removed.
    """

    workspace: Workspace
    folder: str
    schema: pa.Schema
    modern: Callable[[pa.Table, Sequence[str] | None], pa.Table]
    keeps_attempts: bool = False

    def paths(self) -> list[str]:
        """Return the relative paths of the parts, sorted."""
        return list(self.stamps())

    def stamps(self) -> dict[str, str]:
        """Return path → size and modification time of each part, sorted by path."""
        return list_parts(self.workspace, self.folder)

    def record(self) -> pa.Table:
        """Return the small columns of all rows, and ``part``, in the order of the parts.

        After a run was killed, a clip may have two rows; the first one counts. All rows are needed to remove a clip;
        :func:`~emi_ray.store.part_rows.first_rows` returns those that count.
        """
        return until_none_vanishes(self._record)

    def tables(self, columns: Sequence[str] | None = None, keep_pages: bool = True) -> Iterator[pa.Table]:
        """Yield the rows in the order of the parts, about 32 MiB at a time and each clip once, reading ahead in
        threads. No row is lost if a running extraction merges parts at the same time. ``keep_pages`` tells whether
        the kernel may keep what was read in memory, for other readers.
        """
        return only_first(tables_until_none_vanishes(lambda: self._read_all(columns, keep_pages)))

    def write(self, table: pa.Table, names: Iterable[str], kind: str = PART) -> str:
        """Write one part, named by a hash of ``names``; returns its path."""
        path = f"{self.folder}/{kind.format(digest_of(names))}"
        self.workspace.write_tables(path, table.schema, [table])  # after a power failure it is made again
        return path

    def merge(self, parts: Sequence[str]) -> str:
        """Write the rows of several parts as one, and delete those parts; returns its path.

        Of several rows of a clip, the one is kept that is the first to readers, whatever the order of ``parts`` is.
        """
        target = f"{self.folder}/{PART.format(digest_of(parts))}"
        # An earlier attempt that was killed while it deleted parts has left the target. While all parts are there, a
        # target may come from an attempt that failed while it wrote: behind a URI that appears as a complete file.
        if not self.workspace.exists(target) or set(parts) <= self.workspace.stamps(self.folder).keys():
            tables = (table for part in sorted(parts) for table in self._read_part(part))
            self._write_grouped(target, self._that_count(tables))
        for part in parts:
            self.workspace.delete(part)
        return target

    def discard(self, rows: pa.Table) -> None:
        """Remove rows, given as ``clip_id`` and ``part`` of the record."""
        doomed: dict[str, list[str]] = {}
        for part, clip_id in zip(rows["part"].to_pylist(), rows["clip_id"].to_pylist(), strict=True):
            doomed.setdefault(part, []).append(clip_id)
        self._rewrite(doomed)

    def tidy(self) -> None:
        """Remove all rows of a clip but the first and parts without content, and update the index."""
        remove_empty_parts(self.workspace, self.folder)
        found = self._look_whole()
        if repeats := repeats_by_part(found.rows):
            self._rewrite(repeats)
            found = self._look_whole()
        if found.num_unknown:
            self._index.write(found.rows, found.stamps)

    def refresh_index(self) -> None:
        """Update the index."""
        found = until_none_vanishes(self._look)
        if found.num_unknown:
            self._index.write(found.rows, found.stamps)

    def restamp(self, stamps: Mapping[str, str]) -> None:
        """Record in the index new stamps (by clip id) of inputs whose content has not changed.

        The parts are not changed: without the index, the comparison of contents is simply repeated.
        """
        found = self._look_whole()
        record = found.rows
        place = pc.index_in(record["clip_id"], value_set=pa.array(list(stamps), pa.string()))
        noted = pa.array(list(stamps.values()), pa.string()).take(place.combine_chunks())
        column = record.column_names.index("source_stamp")
        stamped = pc.coalesce(noted, record["source_stamp"].combine_chunks())
        self._index.write(record.set_column(column, record.schema.field(column), stamped), found.stamps)

    @property
    def _index(self) -> PartIndex:
        return PartIndex(self.workspace, self.folder)

    def _look_whole(self) -> "_Found":
        """Return the rows of all parts: complete ones if the index is to repeat these, otherwise the record."""
        return until_none_vanishes(lambda: self._look(whole=True))

    def _look(self, whole: bool = False) -> "_Found":
        stamps = self.stamps()
        whole = whole and not self.workspace.is_local and sum(map(size_of, stamps.values())) <= GROUP_BYTES
        known = self._index.read(stamps) if stamps else None
        if known is None or not set(self.schema.names) <= set(known.column_names):
            known = self._empty
        elif not whole:
            known = known.select(self._empty.column_names).cast(self._empty.schema)
        elif not self._is_whole(known):
            known = self._empty
        parts = set(pc.unique(known["part"]).to_pylist())
        unknown = [part for part in stamps if part not in parts]
        if not unknown:
            return _Found(stamps, known, 0)
        with ThreadPoolExecutor(_THREADS) as pool:
            read = self._whole_of if whole else self._record_of
            tables = [*pool.map(read, unknown, [stamps[part] for part in unknown])]
        if known.num_rows:
            tables.insert(0, known)
        rows = pa.concat_tables(tables, promote_options="default").combine_chunks()
        return _Found(stamps, in_order(rows, stamps), len(unknown))

    @property
    def _empty(self) -> pa.Table:
        """A record without rows."""
        return self.schema.append(pa.field("part", pa.string())).empty_table()

    def _is_whole(self, rows: pa.Table) -> bool:
        """Return whether rows have more than the columns of the record."""
        return set(rows.column_names) > set(self._empty.column_names)

    def _record(self) -> pa.Table:
        found = self._look()
        if found.num_unknown >= _INDEX_FROM:
            self._index.write(found.rows, found.stamps)
        return found.rows

    def _open(self, part: str, stamp: str) -> AbstractContextManager[pq.ParquetFile]:
        """Open a part. Behind a URI a small part is read at once, since a request per column would cost more."""
        is_small = not self.workspace.is_local and size_of(stamp) <= GROUP_BYTES
        return self.workspace.open_table(part, None, size_of(stamp) if is_small else None)

    def _whole_of(self, part: str, stamp: str) -> pa.Table:
        """Return all columns of one part, and ``part``."""
        with self._open(part, stamp) as file:
            table = file.read()
        table = self.modern(table, None)
        return table.append_column("part", pa.array([part] * table.num_rows, pa.string()))

    def _record_of(self, part: str, stamp: str) -> pa.Table:
        """Return the record of one part, read from the part."""
        with self._open(part, stamp) as file:
            columns = self.schema.names if set(self.schema.names) <= set(file.schema_arrow.names) else None
            groups = [
                self.modern(file.read_row_group(group, columns), self.schema.names)
                .select(self.schema.names)
                .cast(self.schema)
                for group in range(file.num_row_groups)
            ]
        table = pa.concat_tables([self.schema.empty_table(), *groups])
        return table.append_column("part", pa.array([part] * table.num_rows, pa.string()))

    def _read_all(self, columns: Sequence[str] | None, keep_pages: bool) -> Iterator[pa.Table]:
        """Yield all rows: small parts as a whole, large ones by row group."""
        stamps = self.stamps()
        if (repeated := self._repeated_whole(stamps)) is not None:
            wanted = [name for name in columns or repeated.column_names if name in repeated.column_names]
            return iter([self.modern(repeated.select([n for n in wanted if n != "part"]), columns)])

        def units() -> Iterator[tuple[str, int | None, pq.FileMetaData | None]]:
            for part, stamp in stamps.items():
                if size_of(stamp) <= GROUP_BYTES:
                    yield part, None, None
                    continue
                with self.workspace.open_table(part) as file:
                    metadata = file.metadata
                for group in range(metadata.num_row_groups):
                    yield part, group, metadata

        def read(unit: tuple[str, int | None, pq.FileMetaData | None]) -> pa.Table:
            part, group, metadata = unit
            if group is None:
                with self._open(part, stamps[part]) as file:
                    table = file.read(columns)
            else:
                with self.workspace.open_table(part, metadata) as file:
                    table = file.read_row_group(group, columns)
            if not keep_pages and self.workspace.is_local:
                drop_pages(self.workspace.path(part))
            return self.modern(table, columns)

        return ahead(read, units(), TABLES_AHEAD)

    def _repeated_whole(self, stamps: Mapping[str, str]) -> pa.Table | None:
        """Return all rows of all parts if the index has them."""
        if self.workspace.is_local or not stamps:
            return None
        rows = self._index.read(stamps)
        is_all = rows is not None and len(pc.unique(rows["part"])) == len(stamps)
        return rows if is_all and self._is_whole(rows) else None

    def _read_part(self, part: str) -> Iterator[pa.Table]:
        with self.workspace.open_table(part) as file:
            for group in range(file.num_row_groups):
                yield self.modern(file.read_row_group(group), None)

    def _rewrite(self, doomed: Mapping[str, Sequence[str]]) -> None:
        """Remove clips, given by part, and in the same parts all rows of another clip but the first."""
        targets = {part: f"{self.folder}/{PART.format(digest_of([part, *doomed[part]]))}" for part in doomed}
        # If an earlier attempt was killed, one of these parts is what another one is rewritten to, and must stay.
        leaving = doomed.keys() - targets.values()

        def rewrite(part: str) -> None:
            gone = pa.array(doomed[part], pa.string())
            tables = self._read_part(part)
            kept = (table.filter(pc.invert(pc.is_in(table["clip_id"], value_set=gone))) for table in tables)
            self._write_grouped(targets[part], self._that_count(kept))
            if part in leaving:
                self.workspace.delete(part)

        with ThreadPoolExecutor(TABLES_AHEAD) as pool:
            list(pool.map(rewrite, doomed))

    def _that_count(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Yield the tables without the rows that do not count."""
        return iter(tables) if self.keeps_attempts else only_first(tables)

    def _write_grouped(self, path: str, tables: Iterable[pa.Table]) -> None:
        """Write a part with large row groups; nothing if there are no rows."""
        groups = grouped(tables, GROUP_BYTES)
        if not self.workspace.is_local:
            # Read before anything is written: another attempt, on a node that was cut off, may have deleted a source
            # meanwhile, and what this one has written until then would replace the part of the other.
            groups = iter(list(groups))
        first = next(groups, None)
        if first is None:
            return

        def all_groups() -> Iterator[pa.Table]:
            yield first
            yield from groups

        # The parts with these rows are deleted next.
        self.workspace.write_tables(path, first.schema, all_groups(), is_flushed=True)


@dataclass(frozen=True)
class _Found:
    """Stamps of a folder's parts, their rows with ``part`` in order, and the number of parts missing in the index."""

    stamps: Mapping[str, str]
    rows: pa.Table
    num_unknown: int
