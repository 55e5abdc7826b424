"""Compare stored rows with the present inputs of their clips."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from emi_ray.media.provenance import ABSENT, UNSEEN, contents_of, difference
from emi_ray.schema import MEDIA_COLUMNS


@dataclass(frozen=True)
class RecordComparison:
    """Which rows of a record are present and current, for the N clips of a manifest.

    Attributes:
        present: (N,) bool, whether the record has the clip.
        current: (N,) bool, whether the row was made from the clip's present inputs. Rows that cannot be compared
            count as current: those that do not say what they were made from, and those with an input that is not
            accessible.
        uncomparable: (N,) bool, True for rows that are current only because they cannot be compared.
        row: (N,) int64, index of the clip's row in the record; 0 if it has none.
        stale: the rows of the record that were made from other inputs.
        changed: clip id → description of the change.
        restamped: clip id → new stamp, for clips whose files have another size or time but the same content.
    """

    present: np.ndarray
    current: np.ndarray
    uncomparable: np.ndarray
    row: np.ndarray
    stale: pa.Table
    changed: dict[str, str]
    restamped: dict[str, str]

    @property
    def reasons(self) -> Counter[str]:
        """The number of clips by kind of change."""
        return Counter(self.changed.values())


def compare(record: pa.Table, ids: pa.Array, stamps: pa.Array, clips: pa.Table) -> RecordComparison:
    """Compare the rows of a record with the present inputs of clips.

    Files are hashed only if their size or time has changed.

    Args:
        record: a table with ``clip_id``, ``source`` and ``source_stamp``.
        ids, stamps: (N,) clip ids and present stamps of the rows of ``clips``.
        clips: (N rows) the clips with their media columns.
    """
    known = record["clip_id"].combine_chunks()
    found = pc.index_in(ids, value_set=known)
    then = pc.fill_null(record["source_stamp"].combine_chunks().take(found), "")
    present = found.is_valid().to_numpy(zero_copy_only=False)
    # Rows of absent clips get the valid index 0; "present" tells which ones mean anything.
    row = pc.fill_null(found, 0).to_numpy().astype(np.int64)
    cannot_tell = _any(pc.equal(then, ""), pc.match_substring_regex(stamps, f":({ABSENT}|{UNSEEN})(;|$)"))
    same = pc.equal(then, stamps).to_numpy(zero_copy_only=False)
    # Only clips whose stamp differs need their files hashed.
    doubtful = np.flatnonzero(present & ~same & ~cannot_tell)
    current = present & (same | cannot_tell)
    changed: dict[str, str] = {}
    restamped: dict[str, str] = {}
    if len(doubtful):
        chosen = pa.array(doubtful)
        now, before = stamps.take(chosen).to_pylist(), then.take(chosen).to_pylist()
        rows = clips.select(["clip_id", *MEDIA_COLUMNS]).take(chosen).to_pylist()
        sources = record["source"].combine_chunks().take(found.take(chosen)).to_pylist()
        for index, content in enumerate(contents_of(now, rows)):
            clip_id = rows[index]["clip_id"]
            # An empty content means that the file cannot be read or has changed again.
            if content and content == sources[index]:
                restamped[clip_id] = now[index]
                current[doubtful[index]] = True
            else:
                changed[clip_id] = difference(before[index], now[index])
    stale = record.filter(pc.is_in(known, value_set=pa.array(list(changed), pa.string())))
    return RecordComparison(present, current, present & ~same & cannot_tell, row, stale, changed, restamped)


def _any(*masks: pa.Array) -> np.ndarray:
    combined: np.ndarray = np.logical_or.reduce([mask.to_numpy(zero_copy_only=False) for mask in masks])
    return combined
