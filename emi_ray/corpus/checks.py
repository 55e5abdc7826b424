"""Check ids, splits, groups and media of a corpus. Each check processes whole columns and yields its findings."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from emi_ray.corpus.files import exist
from emi_ray.corpus.listing import Finding, Listing, Severity, about, ids_where
from emi_ray.errors import choices
from emi_ray.schema import GROUP, MEDIA_COLUMNS, SPLITS
from emi_ray.wording import plural

_CONSEQUENCES = {
    "train": "training is not possible, only extraction and prediction",
    "val": "there is nothing to select the best epoch by, and no validation score",
    "test": "no submission can be made",
}


def check_ids(listing: Listing) -> Iterator[Finding]:
    """Check that every clip has an id and exactly one row."""
    clips, where = listing.clips, listing.where
    if unnamed := clips["clip_id"].null_count:
        yield Finding(
            "error",
            f"{where}: clip_id is empty in {plural(unnamed, 'row')}. Name these clips or remove them.",
        )
    times = clips.group_by("clip_id", use_threads=False).aggregate(
        [([], "count_all"), ("split", "count_distinct")]
    )
    times = times.filter(pc.and_(pc.greater(times["count_all"], 1), pc.is_valid(times["clip_id"])))
    if not times.num_rows:
        return
    crossing = times.filter(pc.greater(times["split_count_distinct"], 1))["clip_id"]
    rows = clips.filter(pc.is_in(clips["clip_id"], times["clip_id"].combine_chunks()))
    variants = (
        rows.group_by(rows.column_names, use_threads=False)
        .aggregate([])
        .group_by("clip_id", use_threads=False)
        .aggregate([([], "count_all")])
    )
    several = pc.greater(variants["count_all"], 1)
    identical = variants.filter(pc.invert(several))["clip_id"]
    differing = variants.filter(several)["clip_id"]
    differing = differing.filter(pc.invert(pc.is_in(differing, crossing.combine_chunks())))
    for problem, ids in {
        "in more than one split. Keep each clip in one split": crossing,
        "in several rows that contradict each other. Keep the right row of each": differing,
        "in several identical rows. Keep one row of each": identical,
    }.items():
        yield from about(
            "error", f"{where}: duplicate clip_id: the same id occurs {problem}", ids.to_pylist()
        )


def check_groups(listing: Listing) -> Iterator[Finding]:
    """Check that no group has clips in several splits."""
    clips, where = listing.clips, listing.where
    if GROUP not in clips.column_names:
        return
    known = clips.filter(pc.is_in(clips["split"], pa.array(SPLITS)))
    splits = known.group_by(GROUP, use_threads=False).aggregate([("split", "count_distinct")])
    several = splits.filter(
        pc.and_(pc.is_valid(splits[GROUP]), pc.greater(splits["split_count_distinct"], 1))
    )[GROUP]
    if not len(several):
        return
    message = (
        f"{where}: {len(several):,} groups (for example {several[0]}) have clips in more than one split, so that "
        "scores do not measure how well a model works on people it has not seen. Keep each group in one split"
    )
    chosen = pc.is_in(clips[GROUP], several.combine_chunks())
    yield from about("warning", message, ids_where(clips, chosen))


def check_splits(listing: Listing) -> Iterator[Finding]:
    """Check that splits are named train, val and test; report empty ones with the consequence."""
    clips, where = listing.clips, listing.where
    present = clips["split"].unique().to_pylist()
    for split in present:
        if split not in SPLITS:
            chosen = pc.is_null(clips["split"]) if split is None else pc.equal(clips["split"], split)
            message = f"{where}: split = '{split or ''}' is not a split: {choices(split or '', SPLITS)}"
            yield from about("error", message.rstrip("."), ids_where(clips, chosen))
    for split in SPLITS:
        if split not in present:
            severity: Severity = "warning" if listing.labels and split != "test" else "info"
            yield Finding(severity, f"{where}: the {split} split is empty: {_CONSEQUENCES[split]}.")


def check_media(listing: Listing) -> Iterator[Finding]:
    """Check that clips have media, and that the files exist."""
    clips, where = listing.clips, listing.where
    if not listing.needs_media:
        return
    columns = [name for name in MEDIA_COLUMNS if name in clips.column_names]
    has_none = pa.chunked_array([pa.repeat(True, clips.num_rows)])
    for name in columns:
        has_none = pc.and_(has_none, pc.is_null(clips[name]))
    if pc.all(has_none).as_py():
        yield Finding(
            "error", f"{where}: no clip has any media. Give at least one of {', '.join(MEDIA_COLUMNS)}."
        )
        return
    if not listing.verified:
        yield from _check_files(listing, [name for name in columns if name != "transcript"])
    message = f"{where}: clips without any media, from which nothing can be extracted"
    yield from about("warning", message, ids_where(clips, has_none))


def _check_files(listing: Listing, columns: list[str]) -> Iterator[Finding]:
    clips, where = listing.clips, listing.where
    found = {name: exist(clips[name]) for name in columns}
    num_usable = sum(map(_count, found.values()))
    unknown = {name: pc.and_(pc.is_valid(clips[name]), pc.is_null(there)) for name, there in found.items()}
    has_text = "transcript" in clips.column_names and clips["transcript"].null_count < clips.num_rows
    if not (num_usable or has_text or any(_count(mask) for mask in unknown.values())):
        example = next(path for name in columns for path in clips[name].drop_null().to_pylist())
        yield Finding(
            "error",
            f"{where}: none of the media files exists (for example {example}). "
            "Relative paths start at the table's folder: move the table, or correct the paths.",
        )
        return
    for name in columns:
        message = (
            f"{where}: {name}: the file is missing. Such clips are quarantined, unless they have features"
        )
        yield from about("warning", message, ids_where(clips, pc.invert(found[name])))
        web = pc.and_(unknown[name], pc.match_substring_regex(clips[name], r"^(?i)(https?|ftp)://"))
        message = (
            f"{where}: {name}: web addresses are not read. Such clips will be quarantined: download them"
        )
        yield from about("warning", message, ids_where(clips, web))
        message = f"{where}: {name}: not checked, because the folder cannot be listed from here"
        yield from about("info", message, ids_where(clips, pc.and_not(unknown[name], web)))


def _count(mask: pa.ChunkedArray) -> int:
    return int(pc.sum(mask).as_py() or 0)
