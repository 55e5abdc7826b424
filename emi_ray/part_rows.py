"""Rows of parts as tables: in groups of a size, in the order of the parts, and which stand twice."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def grouped(tables: Iterable[pa.Table], group_bytes: int) -> Iterator[pa.Table]:
    """The same rows in tables of about ``group_bytes``."""
    waiting: list[pa.Table] = []
    num_bytes = 0
    for table in tables:
        if not table.num_rows:
            continue
        waiting.append(table)
        num_bytes += table.nbytes
        if num_bytes >= group_bytes:
            yield pa.concat_tables(waiting)
            waiting, num_bytes = [], 0
    if waiting:
        yield pa.concat_tables(waiting)


def is_repeated(record: pa.Table) -> np.ndarray:
    """Whether the row's clip stands in an earlier row too."""
    ids = record["clip_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    repeated = np.ones(len(ids), dtype=bool)
    repeated[np.unique(ids, return_index=True)[1]] = False
    return repeated


def only_later_parts(repeated: pa.Table, record: pa.Table) -> pa.Table:
    """Of the repeated rows, those whose part does not hold the first row of the clip, which must stay."""
    ids = pc.index_in(repeated["clip_id"], value_set=record["clip_id"].combine_chunks())
    first_part = record["part"].take(ids)
    return repeated.filter(pc.not_equal(repeated["part"], first_part))


def in_order(rows: pa.Table, stamps: Mapping[str, str]) -> pa.Table:
    """Rows with a column ``part`` in the order of the parts; within a part as they stand."""
    place = of_parts(rows, stamps, list(range(len(stamps))))
    return rows.take(pa.array(np.argsort(place.to_numpy(), kind="stable")))


def of_parts(rows: pa.Table, stamps: Mapping[str, str], values: list) -> pa.Array:
    """For each row the value of its part, null where the part is not among ``stamps``."""
    parts = rows["part"].combine_chunks()
    return pa.array(values).take(pc.index_in(parts, value_set=pa.array(list(stamps), pa.string())))


def size_of(stamp: str) -> int:
    """Bytes of a part of this stamp."""
    return int(stamp.partition(":")[0])
