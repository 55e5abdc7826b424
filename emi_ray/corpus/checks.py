"""What can be wrong with a corpus. Each check looks at whole columns and says what it found."""

import math
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from emi_ray.config import CorpusSettings
from emi_ray.corpus.columns import numbers
from emi_ray.corpus.files import exist
from emi_ray.corpus.listing import Finding, Listing, about, ids_where
from emi_ray.errors import choices
from emi_ray.schema import EMOTIONS, MEDIA_COLUMNS, SPLITS, Label, snake

PATH_COLUMNS = tuple(name for name in MEDIA_COLUMNS if name != "transcript")


def check_ids(listing: Listing) -> Iterator[Finding]:
    """Every clip has an id, and no other has the same."""
    clips, where = listing.clips, listing.where
    if unnamed := clips["clip_id"].null_count:
        yield Finding("error", f"{where}: clip_id is empty in {unnamed:,} rows. Name each clip, or remove them.")
    counts = clips.group_by("clip_id").aggregate([([], "count_all"), ("split", "count_distinct")])
    repeated = counts.filter(pc.greater(counts["count_all"], 1)).filter(pc.field("clip_id").is_valid())
    if not repeated.num_rows:
        return
    crossing = repeated.filter(pc.greater(repeated["split_count_distinct"], 1))["clip_id"]
    rows = clips.filter(pc.is_in(clips["clip_id"], repeated["clip_id"].combine_chunks()))
    variants = rows.group_by(rows.column_names).aggregate([]).group_by("clip_id").aggregate([([], "count_all")])
    differing = variants.filter(pc.greater(variants["count_all"], 1))["clip_id"]
    conflicting = differing.filter(pc.invert(pc.is_in(differing, crossing.combine_chunks())))
    identical = variants.filter(pc.equal(variants["count_all"], 1))["clip_id"]
    yield from about(
        "error", f"{where}: clip_id stands in two splits. Keep each clip in one, or scores are worthless", crossing
    )
    yield from about(
        "error", f"{where}: clip_id stands in several rows that differ. Keep the right one of each", conflicting
    )
    yield from about(
        "error", f"{where}: clip_id stands in several identical rows. Keep one of each", identical
    )
    

def check_splits(listing: Listing) -> Iterator[Finding]:
    """Splits are called train, val and test, and none of them is empty."""
    clips, where = listing.clips, listing.where
    ids_by_split = {row: None for row in clips["split"].unique().to_pylist()}
    for split in ids_by_split:
        if split not in SPLITS:
            chosen = ids_where(clips, pc.is_null(clips["split"]) if split is None else pc.equal(clips["split"], split))
            message = f"{where}: split = '{split or ''}': {choices(split or '', SPLITS)}"
            yield from about("error", message, chosen)
    consequences = {
        "train": "nothing can be trained, only extracted and predicted",
        "val": "training has nothing to stop by, and there is no score",
    }
    for split, consequence in consequences.items():
        if split not in ids_by_split:
            severity = "warning" if listing.labels else "info"
            yield Finding(severity, f"{where}: the {split} split is empty: {consequence}.")
    if "test" not in ids_by_split:
        yield Finding("info", f"{where}: the test split is empty.")
