"""Write ``clips.parquet`` for a corpus of imported features: ids, splits and labels, and media if there are any."""

from collections.abc import Collection, Sequence

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs

from emi_ray.config import CorpusSettings, WorkspaceConfig
from emi_ray.corpus.files import absolute, join, kind_of
from emi_ray.corpus.listing import Finding, Listing
from emi_ray.corpus.manifest import validate_corpus
from emi_ray.corpus.table import read_table
from emi_ray.corpus.vidmimic2 import padded, read_vidmimic2, spelled_test_ids
from emi_ray.errors import UserError
from emi_ray.schema import clips_schema, labels_of
from emi_ray.settings import validate
from emi_ray.workspace import CLIPS, CONFIG, Workspace

_SPLIT_FILE = "train_split.csv"


def init_from_features(
    workspace: Workspace,
    source: str,
    splits: str | None,
    spelled: Collection[str],
    *,
    pads_ids: bool,
    extend: bool = False,
    overrides: Sequence[str] = (),
) -> tuple[Finding, ...]:
    """Create the workspace, unless it has a corpus already; with ``extend``, add missing clips to that corpus.

    Args:
        splits: a folder with the split CSVs of Hume-Vidmimic2, or a table with clip_id, split and labels. None: the
            split
            CSVs in ``source``; if there are none, every clip belongs to the test split.
        spelled: the ids with features, in the spelling of the files.
        pads_ids: whether ids are Hume's.
        overrides: items of the form ``section.key=value``, for example ``corpus.labels=[Joy]``.

    Returns:
        Findings about the new corpus; nothing about an existing one.

    Raises:
        UserError: the corpus has errors, or has other labels than the one to extend.
    """
    if workspace.exists(CLIPS) and not extend:
        return ()
    held = workspace.exists(CONFIG)
    config = workspace.config(overrides) if held else validate(WorkspaceConfig, {}, CONFIG, overrides)
    ids = sorted({padded(clip_id) if pads_ids else clip_id for clip_id in spelled})
    listing = _read_listing(source, splits, ids, config.corpus)
    corpus = validate_corpus(listing, config.corpus)
    if workspace.exists(CLIPS):
        workspace.write_table(CLIPS, _extended(workspace.clips(), corpus.clips, listing.where))
        return ()
    read = config.corpus.model_copy(update={"kind": "features", "source": absolute(splits or source)})
    workspace.write_config(config.model_copy(update={"corpus": read}))
    workspace.write_table(CLIPS, corpus.clips)
    return corpus.findings


def match_ids(spelled: Sequence[str], clip_ids: Collection[str]) -> dict[str, str]:
    """Return clip id → its spelling in the source. Ids that only lack Hume's padding are matched too.

    Raises:
        UserError: two spellings mean the same clip.
    """
    known = set(clip_ids)
    for clip_id, names in _spellings(spelled).items():
        if clip_id in known and len(names) > 1 and not set(names) <= known:
            raise UserError(
                f"'{names[0]}' and '{names[1]}' are features of the same clip, {clip_id}. Remove one of them."
            )
    padding = {padded(name): name for name in spelled if padded(name) in known}
    return {**padding, **{name: name for name in spelled if name in known}}


def _spellings(spelled: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in spelled:
        found.setdefault(padded(name), []).append(name)
    return found


def _extended(clips: pa.Table, found: pa.Table, where: str) -> pa.Table:
    """Return ``clips`` with the rows of ``found`` that it lacks."""
    if labels_of(found.schema) and labels_of(found.schema) != labels_of(clips.schema):
        raise UserError(f"{where}: other labels than the workspace has. Import into a new workspace.")
    fresh = found.filter(pc.invert(pc.is_in(found["clip_id"], clips["clip_id"].combine_chunks())))
    schema = clips_schema(labels_of(clips.schema))
    return pa.concat_tables([clips, fresh], promote_options="default").select(schema.names).cast(schema)


def _read_listing(source: str, splits: str | None, ids: Sequence[str], settings: CorpusSettings) -> Listing:
    place = absolute(splits or source)
    if splits is not None and kind_of(place) == fs.FileType.File:
        return read_table(place, settings, needs_media=False)
    if splits is None and not _has_split_files(place):
        return _unlabelled(place, ids)
    listing = read_vidmimic2(place, settings)
    test = [] if spelled_test_ids(place) else sorted(set(ids) - set(listing.clips["clip_id"].to_pylist()))
    extra = pa.table({"clip_id": pa.array(test, pa.string()), "split": pa.repeat("test", len(test))})
    clips = pa.concat_tables([listing.clips, extra], promote_options="default")
    return Listing(
        clips, listing.labels, listing.where, verified=True, findings=listing.findings, needs_media=False
    )


def _has_split_files(place: str) -> bool:
    is_folder = kind_of(place) == fs.FileType.Directory
    return is_folder and kind_of(join(place, _SPLIT_FILE)) == fs.FileType.File


def _unlabelled(where: str, ids: Sequence[str]) -> Listing:
    clips = pa.table({"clip_id": pa.array(ids, pa.string()), "split": pa.repeat("test", len(ids))})
    message = (
        f"{where}: no {_SPLIT_FILE} and no --splits, so every clip belongs to the test split, without labels."
    )
    return Listing(clips, (), where, findings=(Finding("warning", message),), needs_media=False)
