"""Rows of parts as tables: group them by size, order them by part, and find duplicates; hash names of parts."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def grouped(tables: Iterable[pa.Table], group_bytes: int) -> Iterator[pa.Table]:
    """Yield the same rows in tables of about ``group_bytes``."""
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


def only_first(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield the tables without the rows of clips that an earlier row has, in the same table or in one before."""
    seen: set[str] = set()
    for table in tables:
        is_new = []
        for clip_id in table["clip_id"].to_pylist():
            is_new.append(clip_id not in seen)
            seen.add(clip_id)
        # A filter copies the features, and hardly any table has repeated rows.
        yield table if all(is_new) else table.filter(pa.array(is_new, pa.bool_()))


def is_repeated(record: pa.Table) -> np.ndarray:
    """Return for each row whether an earlier row has the same clip."""
    ids = record["clip_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    repeated = np.ones(len(ids), dtype=bool)
    # np.unique returns the first index of each id.
    repeated[np.unique(ids, return_index=True)[1]] = False
    return repeated


def first_rows(record: pa.Table) -> pa.Table:
    """Return the first row of each clip, which is the one that counts."""
    return record.filter(pa.array(~is_repeated(record)))


def repeats_by_part(record: pa.Table) -> dict[str, list[str]]:
    """Return the parts with rows of clips that an earlier row has, and the clips that they must not have at all.

    These are the clips whose first row is in another part. A part that only repeats its own clips has none of them.
    """
    repeated = record.filter(pa.array(is_repeated(record)))
    firsts = pc.index_in(repeated["clip_id"], value_set=record["clip_id"].combine_chunks())
    columns = repeated["part"], record["part"].take(firsts), repeated["clip_id"]
    found: dict[str, list[str]] = {}
    for part, first_part, clip_id in zip(*(column.to_pylist() for column in columns), strict=True):
        clip_ids = found.setdefault(part, [])
        if part != first_part:
            clip_ids.append(clip_id)
    return found


def in_order(rows: pa.Table, stamps: Mapping[str, str]) -> pa.Table:
    """Sort rows with a column ``part`` by the order of the parts, keeping the order within a part."""
    place = of_parts(rows, stamps, list(range(len(stamps))))
    # Only a stable sort keeps the order within a part.
    return rows.take(pa.array(np.argsort(place.to_numpy(), kind="stable")))


def of_parts(rows: pa.Table, stamps: Mapping[str, str], values: list) -> pa.Array:
    """Return for each row the value of its part, null if the part is not in ``stamps``."""
    parts = rows["part"].combine_chunks()
    return pa.array(values).take(pc.index_in(parts, value_set=pa.array(list(stamps), pa.string())))


def size_of(stamp: str) -> int:
    """Return the size in bytes of a part with this stamp."""
    return int(stamp.partition(":")[0])


def digest_of(names: Iterable[str]) -> str:
    """Return 16 hexadecimal digits of a hash of names, independent of their order."""
    return hashlib.blake2b("\n".join(sorted(names)).encode(), digest_size=8).hexdigest()
