"""A folder of Parquet parts that appear atomically: what they hold, how rows leave, how several become one.

What is done is what the parts hold. ``index/<folder>.parquet`` repeats the small columns of all parts, so that
resuming and training open one file instead of thousands. An entry of it counts only while its part is there with the
size and the time of change that the entry names; every other part is opened. The index may be deleted at any time.

A new part is there before an old one goes. So what is killed in between leaves rows twice, never none.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from emi_ray.read_ahead import ahead
from emi_ray.workspace import Workspace

GROUP_BYTES = 32 << 20
"""Of a row group of a merged part, which is what readers hold in memory at once."""

PART, RAW = "part-{}.parquet", "_raw-{}"
"""How parts are named. A raw part is cheap to write, and merging brings it into the layout of all others. Until then
pandas, DuckDB and ``datasets`` pass it over, as its name begins with an underscore and has no suffix."""

_INDEX_FROM, _THREADS = 8, 32  # so many parts that the index lacks are worth writing it anew
_AHEAD = 3
_ATTEMPTS = 5


@dataclass(frozen=True)
class PartFolder:
    """Parts in one folder of a workspace.

    Attributes:
        schema: columns of the record, ``clip_id`` first.
        modern: brings a table of any older layout into the present one; its second argument names the columns that
            are wanted, None for all.
    """

    workspace: Workspace
    folder: str
    schema: pa.Schema
    modern: Callable[[pa.Table, Sequence[str] | None], pa.Table]

    def paths(self) -> list[str]:
        """Relative paths of the parts, sorted."""
        return list(self.stamps())

    def stamps(self) -> dict[str, str]:
        """Path → size and time of change of each part, sorted by path."""
        stamps = self.workspace.stamps(self.folder)
        return {path: stamp for path, stamp in stamps.items() if path.endswith(".parquet") or is_raw(path)}

    def record(self) -> pa.Table:
        """The small columns of all rows, and ``part``, in the order of the parts.

        A clip may stand there twice, where a run was killed; the first row counts.
        """
        return _until_none_vanishes(self._record)

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The rows in the order of the parts, at most some 32 MiB at once, each clip once. The next tables are read
        in threads meanwhile. A part that is merged meanwhile by a running extraction costs no row."""
        seen: set[str] = set()
        for attempt in range(_ATTEMPTS):
            try:
                for table in self._read_all(columns):
                    ids = table["clip_id"].to_pylist()
                    fresh = [clip_id not in seen for clip_id in ids]
                    seen.update(ids)
                    yield table if all(fresh) else table.filter(pa.array(fresh, pa.bool_()))
                return
            except FileNotFoundError:
                if attempt == _ATTEMPTS - 1:
                    raise

    def write(self, table: pa.Table, names: Iterable[str], kind: str = PART) -> str:
        """Write one part, named by a hash of ``names``; returns its path."""
        path = f"{self.folder}/{kind.format(digest_of(names))}"
        self.workspace.write_table(path, table)
        return path

    def merge(self, parts: Sequence[str]) -> str:
        """Write the rows of several parts as one, and remove those; returns its path."""
        target = f"{self.folder}/{PART.format(digest_of(parts))}"
        if not self.workspace.exists(target):  # else an earlier attempt was killed while it removed the parts
            self._write_grouped(target, (table for part in parts for table in self._read_part(part)))
        for part in parts:
            self.workspace.delete(part)
        return target

    def discard(self, rows: pa.Table) -> None:
        """Remove rows: those of each ``clip_id`` in each ``part`` that a part of the record names."""
        doomed: dict[str, list[str]] = {}
        for part, clip_id in zip(rows["part"].to_pylist(), rows["clip_id"].to_pylist(), strict=True):
            doomed.setdefault(part, []).append(clip_id)
        with ThreadPoolExecutor(_AHEAD) as pool:
            list(pool.map(self._discard, doomed, doomed.values()))

    def tidy(self) -> None:
        """Remove clips that stand in an earlier part too, and bring the index up to the parts."""
        record = self.record()
        repeated = _only_later_parts(record.filter(pa.array(_is_repeated(record))), record)
        if repeated.num_rows:
            self.discard(repeated)
        self.refresh_index()

    def refresh_index(self) -> None:
        """Bring the index up to the parts."""
        record = self.record()
        indexed = pc.unique(self._indexed(self.stamps())["part"])
        if len(indexed) < len(pc.unique(record["part"])):
            self.write_index(record)

    def restamp(self, stamps: Mapping[str, str]) -> None:
        """Note in the index new stamps (by clip id) of what clips were made of, where the content has not changed.

        The parts stay as they are: without the index the same is found out again.
        """
        record = self.record()
        place = pc.index_in(record["clip_id"], value_set=pa.array(list(stamps), pa.string()))
        noted = pa.array(list(stamps.values()), pa.string()).take(place.combine_chunks())
        column = record.column_names.index("source_stamp")
        stamped = pc.coalesce(noted, record["source_stamp"].combine_chunks())
        self.write_index(record.set_column(column, record.schema.field(column), stamped))

    def write_index(self, record: pa.Table) -> None:
        """Keep a record as the index. A workspace that may not be written to goes without."""
        stamps = self.stamps()
        place = pc.index_in(record["part"], value_set=pa.array(list(stamps), pa.string()))
        stamp = pa.array(list(stamps.values()), pa.string()).take(place.combine_chunks())
        try:
            self.workspace.write_table(
                self._index_path, record.append_column("part_stamp", stamp).filter(pc.is_valid(stamp))
            )
        except PermissionError:
            return

    @property
    def _index_path(self) -> str:
        return f"index/{self.folder}.parquet"

    def _record(self) -> pa.Table:
        stamps = self.stamps()
        held = self._indexed(stamps)
        known = set(pc.unique(held["part"]).to_pylist())
        unknown = [part for part in stamps if part not in known]
        if not unknown:
            return held
        with ThreadPoolExecutor(_THREADS) as pool:
            record = pa.concat_tables([held, *pool.map(self._record_of, unknown)]).combine_chunks()
        place = pc.index_in(record["part"], value_set=pa.array(list(stamps), pa.string()))
        record = record.take(pa.array(np.argsort(place.to_numpy(), kind="stable")))
        if len(unknown) >= _INDEX_FROM:
            self.write_index(record)
        return record

    def _indexed(self, stamps: Mapping[str, str]) -> pa.Table:
        """What the index says of the parts that still are as it knew them, in the order of the parts."""
        wanted = self.schema.append(pa.field("part", pa.string()))
        try:
            table = self.workspace.read_table(self._index_path)
        except (FileNotFoundError, pa.ArrowInvalid):
            return wanted.empty_table()
        if table.column_names != [*wanted.names, "part_stamp"]:
            return wanted.empty_table()
        known = pa.array([f"{part} {stamp}" for part, stamp in stamps.items()], pa.string())
        named = pc.binary_join_element_wise(table["part"], table["part_stamp"], " ")
        return table.filter(pc.is_in(named, value_set=known)).select(wanted.names).cast(wanted)

    def _record_of(self, part: str) -> pa.Table:
        """The record of one part, read from it alone."""
        with self.workspace.open_table(part) as file:
            columns = self.schema.names if set(self.schema.names) <= set(file.schema_arrow.names) else None
            groups = [
                self.modern(file.read_row_group(group, columns), self.schema.names)
                .select(self.schema.names)
                .cast(self.schema)
                for group in range(file.num_row_groups)
            ]
        table = pa.concat_tables([self.schema.empty_table(), *groups])
        return table.append_column("part", pa.array([part] * table.num_rows, pa.string()))

    def _read_all(self, columns: Sequence[str] | None) -> Iterator[pa.Table]:
        """All rows; parts that are read as a whole where they are small, else a row group at a time."""

        def units() -> Iterator[tuple[str, int | None, pq.FileMetaData | None]]:
            for part, stamp in self.stamps().items():
                if int(stamp.partition(":")[0]) <= GROUP_BYTES:
                    yield part, None, None
                    continue
                with self.workspace.open_table(part) as file:
                    metadata = file.metadata
                for group in range(metadata.num_row_groups):
                    yield part, group, metadata

        def read(unit: tuple[str, int | None, pq.FileMetaData | None]) -> pa.Table:
            part, group, metadata = unit
            with self.workspace.open_table(part, metadata) as file:
                table = file.read(columns) if group is None else file.read_row_group(group, columns)
            return self.modern(table, columns)

        return ahead(read, units(), _AHEAD)

    def _read_part(self, part: str) -> Iterator[pa.Table]:
        with self.workspace.open_table(part) as file:
            for group in range(file.num_row_groups):
                yield self.modern(file.read_row_group(group), None)

    def _discard(self, part: str, clip_ids: Sequence[str]) -> None:
        gone = pa.array(clip_ids, pa.string())
        kept = (
            table.filter(pc.invert(pc.is_in(table["clip_id"], value_set=gone)))
            for table in self._read_part(part)
        )
        self._write_grouped(f"{self.folder}/{PART.format(digest_of([part, *clip_ids]))}", kept)
        self.workspace.delete(part)

    def _write_grouped(self, path: str, tables: Iterable[pa.Table]) -> None:
        """Write a part of large row groups; none where there is no row."""
        groups = _grouped(tables)
        first = next(groups, None)
        if first is None:
            return

        def all_groups() -> Iterator[pa.Table]:
            yield first
            yield from groups

        self.workspace.write_tables(path, first.schema, all_groups())


def is_raw(path: str) -> bool:
    """Whether a part is in the layout that is cheap to write."""
    return path.rpartition("/")[2].startswith(RAW.format(""))


def digest_of(names: Iterable[str]) -> str:
    """Sixteen hexadecimal digits of a hash of names, in whatever order."""
    return hashlib.blake2b("\n".join(sorted(names)).encode(), digest_size=8).hexdigest()


def _grouped(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of about :data:`GROUP_BYTES`."""
    waiting: list[pa.Table] = []
    num_bytes = 0
    for table in tables:
        if not table.num_rows:
            continue
        waiting.append(table)
        num_bytes += table.nbytes
        if num_bytes >= GROUP_BYTES:
            yield pa.concat_tables(waiting)
            waiting, num_bytes = [], 0
    if waiting:
        yield pa.concat_tables(waiting)


def _is_repeated(record: pa.Table) -> np.ndarray:
    """Whether the row's clip stands in an earlier row too."""
    ids = record["clip_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    repeated = np.ones(len(ids), dtype=bool)
    repeated[np.unique(ids, return_index=True)[1]] = False
    return repeated


def _only_later_parts(repeated: pa.Table, record: pa.Table) -> pa.Table:
    """Of the repeated rows, those whose part does not hold the first row of the clip, which must stay."""
    ids = pc.index_in(repeated["clip_id"], value_set=record["clip_id"].combine_chunks())
    first_part = record["part"].take(ids)
    return repeated.filter(pc.not_equal(repeated["part"], first_part))


def _until_none_vanishes(read: Callable[[], pa.Table]) -> pa.Table:
    """Repeat a reading during which a running extraction merged parts."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return read()
        except FileNotFoundError:
            continue
    return read()
