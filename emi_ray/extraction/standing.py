"""Whether what is kept of clips was made of their present inputs."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from emi_ray.media.origins import ABSENT, UNSEEN, contents_of, difference
from emi_ray.schema import MEDIA_COLUMNS


@dataclass(frozen=True)
class Standing:
    """How rows of a record stand to the clips of a manifest.

    Attributes:
        held: (N,) bool: the record has the clip.
        current: (N,) bool: and it was made of the clip's present inputs, as far as can be told. That is so too where
            the row does not say what it was made of, and where an input is no longer there to compare.
        untold: (N,) bool: current, because nothing can be told.
        place: (N,) int64: the clip's row in the record; 0 where it has none.
        stale: the rows of the record that were made of other inputs.
        reasons: what has changed, and for how many clips.
        changed: clip id → what has changed.
        restamped: clip id → stamp of those whose files have changed in nothing but size or time as they are told.
    """

    held: np.ndarray
    current: np.ndarray
    untold: np.ndarray
    place: np.ndarray
    stale: pa.Table
    changed: dict[str, str]
    restamped: dict[str, str]

    @property
    def reasons(self) -> Counter[str]:
        return Counter(self.changed.values())


def compare(record: pa.Table, ids: pa.Array, stamps: pa.Array, clips: pa.Table) -> Standing:
    """Compare a record, with ``clip_id``, ``source`` and ``source_stamp``, to the stamps of the clips' inputs now.

    Args:
        ids, stamps: (N,) of the clips of ``clips``.
    """
    known = record["clip_id"].combine_chunks()
    found = pc.index_in(ids, value_set=known)
    then = pc.fill_null(record["source_stamp"].combine_chunks().take(found), "")
    held = found.is_valid().to_numpy(zero_copy_only=False)
    place = pc.fill_null(found, 0).to_numpy().astype(np.int64)
    cannot_tell = _any(pc.equal(then, ""), pc.match_substring_regex(stamps, f":({ABSENT}|{UNSEEN})(;|$)"))
    same = pc.equal(then, stamps).to_numpy(zero_copy_only=False)
    doubtful = np.flatnonzero(held & ~same & ~cannot_tell)
    current = held & (same | cannot_tell)
    changed: dict[str, str] = {}
    restamped: dict[str, str] = {}
    if len(doubtful):
        chosen = pa.array(doubtful)
        now, before = stamps.take(chosen).to_pylist(), then.take(chosen).to_pylist()
        rows = clips.select(["clip_id", *MEDIA_COLUMNS]).take(chosen).to_pylist()
        sources = record["source"].combine_chunks().take(found.take(chosen)).to_pylist()
        for index, content in enumerate(contents_of(now, rows)):
            clip_id = rows[index]["clip_id"]
            if content and content == sources[index]:
                restamped[clip_id] = now[index]
                current[doubtful[index]] = True
            else:
                changed[clip_id] = difference(before[index], now[index])
    stale = record.filter(pc.is_in(known, value_set=pa.array(list(changed), pa.string())))
    return Standing(held, current, held & ~same & cannot_tell, place, stale, changed, restamped)


def _any(*masks: pa.Array) -> np.ndarray:
    combined: np.ndarray = np.logical_or.reduce([mask.to_numpy(zero_copy_only=False) for mask in masks])
    return combined
