"""Hume-Vidmimic2, in the layout of its organisers.

    train_split.csv                     Filename, then the six emotions
    valid_split.csv or val_split.csv    the same
    test_split.csv or test_split.txt    optional: the ids of the test clips
    (train and valid may have a column "group": the person in a clip)
    raw/<id>.mp4  audio/<id>.mp3  face_images/<id>/<n>.jpg  text/<id>.txt  openface/<id>.csv

Ids are 5-digit strings. Files may also write them as ints or floats (``123``, ``123.0``): inside ``emi_ray`` the id
of a clip is always padded, and :func:`spelled_test_ids` returns the spelling of the test list. Without a test list,
the test clips are those with media that are in neither split.
"""

import re
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs

from emi_ray.config import CorpusSettings
from emi_ray.corpus.column_roles import find_group
from emi_ray.corpus.columns import read_csv, text_column
from emi_ray.corpus.files import absolute, join, kind_of, list_folder, read_texts
from emi_ray.corpus.listing import Finding, Listing, about
from emi_ray.errors import UserError, choices
from emi_ray.schema import EMOTIONS, GROUP

NUM_CLIPS = {"train": 8072, "val": 4588, "test": 4586}
FIRST_TEST_ID = 12660

_SPLIT_FILES = {"train": ("train_split.csv",), "val": ("valid_split.csv", "val_split.csv")}
_TEST_LISTS = ("test_split.csv", "test_split.txt")
_ID_COLUMN = "Filename"
_LAYOUT = {
    "video": ("raw", ".mp4"),
    "audio": ("audio", ".mp3"),
    "transcript": ("text", ".txt"),
    "faces_dir": ("face_images", ""),
    "openface_csv": ("openface", ".csv"),
}


def read_vidmimic2(source: str, settings: CorpusSettings) -> Listing:
    """Read the split files and list the media folders. Missing media are null.

    Raises:
        UserError: a split file is missing, or lacks a column.
    """
    source = absolute(source)
    if settings.labels not in (None, EMOTIONS):
        raise UserError(
            "corpus.labels: the labels of Hume-Vidmimic2 are the six emotions. Set 'corpus.labels=null'."
        )
    if kind_of(source) != fs.FileType.Directory:
        raise UserError(f"--source {source}: there is no such folder. Give the folder with train_split.csv.")
    media = {column: _list_media(source, *place) for column, place in _LAYOUT.items()}
    read = {split: _read_split(source, names, settings) for split, names in _SPLIT_FILES.items()}
    splits = {split: part for split, (part, _) in read.items()}
    test, findings = _test_clips(source, splits, media)
    findings += [remark for _, remarks in read.values() for remark in remarks]
    parts = [
        part.append_column("split", pa.repeat(split, part.num_rows))
        for split, part in [*splits.items(), ("test", test)]
    ]
    clips = pa.concat_tables(parts, promote_options="default")
    ids = clips["clip_id"].to_pylist()
    for column, found in media.items():
        clips = clips.append_column(column, pa.array([found.get(clip_id) for clip_id in ids], pa.string()))
    clips = _read_transcripts(clips, settings.encoding)
    findings += _incomplete(clips) + _strange_ids(clips)
    return Listing(clips, EMOTIONS, f"{source}/*_split.csv", verified=True, findings=tuple(findings))


def padded(clip_id: str) -> str:
    """Pad an id to five digits: ``123``, ``123.0`` and ``00123`` are ``00123``. Other ids are unchanged."""
    match = re.fullmatch(r"(\d+)(\.0+)?", clip_id.strip())
    return match[1].zfill(5) if match else clip_id.strip()


def spelled_test_ids(source: str) -> dict[str, str]:
    """Return clip id → its spelling in the test list, in the order of the list; empty if there is no list.

    A submission must spell ids like the organisers do, and looks them up here.
    """
    source = absolute(source)
    path = _first_file(source, _TEST_LISTS)
    if path is None:
        return {}
    if path.endswith(".csv"):
        table = read_csv(path)
        first = _ID_COLUMN if _ID_COLUMN in table.column_names else table.column_names[0]
        spelled = table[first].to_pylist()
        if re.fullmatch(r"\d+(\.0+)?", first):
            spelled.insert(0, first)
    else:
        spelled = read_texts([path])[0].split()
    return {padded(clip_id): clip_id.strip() for clip_id in spelled if clip_id and clip_id != _ID_COLUMN}


def _first_file(source: str, names: tuple[str, ...]) -> str | None:
    there = list_folder(source)
    return next((join(source, name) for name in names if there.get(name) is False), None)


def _list_media(source: str, folder: str, suffix: str) -> dict[str, str]:
    """Return clip id → path of its file (or, without a suffix, its folder)."""
    place = join(source, folder)
    return {
        padded(name.removesuffix(suffix)): join(place, name)
        for name, is_folder in sorted(list_folder(place).items(), reverse=True)
        if name.endswith(suffix) and is_folder == (not suffix) and not name.startswith(".")
    }


def _read_split(
    source: str, names: tuple[str, ...], settings: CorpusSettings
) -> tuple[pa.Table, list[Finding]]:
    path = _first_file(source, names)
    if path is None:
        raise UserError(f"{source}: {' or '.join(names)} does not exist. Put it beside the media folders.")
    table = read_csv(path, settings.encoding)
    for name in (_ID_COLUMN, *EMOTIONS):
        if name not in table.column_names:
            raise UserError(f"{path}: no column '{name}': {choices(name, table.column_names)}")
    ids = pa.array([padded(clip_id) or None for clip_id in table[_ID_COLUMN].to_pylist()], pa.string())
    group, remarks = find_group(table.column_names, settings, path)
    unknown = [name for name in table.column_names if name not in (_ID_COLUMN, *EMOTIONS, GROUP, group)]
    remarks += [Finding("warning", f"{path}: unknown column '{name}' ignored.") for name in unknown]
    clips = table.select(EMOTIONS).add_column(0, "clip_id", ids)
    if group:
        clips = clips.append_column(GROUP, text_column(table, group, path))
    return clips, remarks


def _test_clips(
    source: str, splits: Mapping[str, pa.Table], media: Mapping[str, Mapping[str, str]]
) -> tuple[pa.Table, list[Finding]]:
    listed = list(spelled_test_ids(source))
    labelled = {clip_id for part in splits.values() for clip_id in part["clip_id"].to_pylist()}
    unlisted = sorted({clip_id for found in media.values() for clip_id in found} - labelled - set(listed))
    if listed:
        message = f"{source}: media of clips that are neither in a split file nor in the test list: left out"
        return pa.table({"clip_id": listed}), about("info", message, unlisted)
    early = [clip_id for clip_id in unlisted if clip_id.isdigit() and int(clip_id) < FIRST_TEST_ID]
    message = (
        f"{source}: treated as test clips, because they are in no split file; but ids below {FIRST_TEST_ID} belong "
        "to train or val. Is a split file incomplete? A test_split.csv defines the test clips"
    )
    return pa.table({"clip_id": pa.array(unlisted, pa.string())}), about("warning", message, early)


def _read_transcripts(clips: pa.Table, encoding: str | None) -> pa.Table:
    """Replace paths of transcripts by the text; an empty file means no transcript."""
    paths = clips["transcript"]
    texts = iter(read_texts(paths.drop_null().to_pylist(), encoding))
    read = [None if path is None else next(texts) or None for path in paths.to_pylist()]
    place = clips.column_names.index("transcript")
    return clips.set_column(place, "transcript", pa.array(read, pa.string()))


def _incomplete(clips: pa.Table) -> list[Finding]:
    counts = {row["values"]: row["counts"] for row in pc.value_counts(clips["split"]).to_pylist()}
    parts = [f"{split} {counts.get(split, 0):,} of {official:,}" for split, official in NUM_CLIPS.items()]
    if all(counts.get(split) == official for split, official in NUM_CLIPS.items()):
        return []
    return [Finding("info", f"incomplete copy of Hume-Vidmimic2: {', '.join(parts)}.")]


def _strange_ids(clips: pa.Table) -> list[Finding]:
    strange = [clip_id for clip_id in clips["clip_id"].drop_null().to_pylist() if not clip_id.isdigit()]
    return about("warning", f"{_ID_COLUMN} is not a number; kept unchanged", strange)
