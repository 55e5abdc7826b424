"""A corpus in one table: CSV or Parquet with ``clip_id``, ``split``, ``group``, media columns and labels.

Every other numeric column is a label (see ``column_roles.py``), in any number and any range. Relative paths start at
the table's folder. A ``transcript`` is the text itself, or the name of a ``.txt`` file.
"""

import difflib
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs

from emi_ray.config import CorpusSettings
from emi_ray.corpus.column_roles import Roles, sort_columns
from emi_ray.corpus.columns import read_columns, text_column
from emi_ray.corpus.files import absolute, exist, join, join_all, kind_of, nothing_at, read_texts
from emi_ray.corpus.folder import read_media
from emi_ray.corpus.listing import Finding, Listing, about, ids_where
from emi_ray.errors import UserError
from emi_ray.schema import GROUP, MEDIA_COLUMNS, SPLITS

TABLES = ("clips.csv", "clips.parquet")
"""Names of the table in a folder that is given as the source."""

_NO_VALUE = pa.array(["NA", "N/A", "<NA>", "nan", "NaN", "NAN", "None", "none", "null", "NULL"])
"""What programs write for a missing value. In a text column it may also be a word."""

_PATH_COLUMNS = tuple(name for name in MEDIA_COLUMNS if name != "transcript")


def read_table_corpus(source: str, settings: CorpusSettings) -> Listing:
    """Read a table, the table in a folder, or a folder of media files without a table.

    Raises:
        UserError: ``source`` does not exist, the table cannot be read, or it lacks a required column.
    """
    source = absolute(source)
    kind = kind_of(source)
    if kind == fs.FileType.NotFound:
        raise UserError(f"--source {nothing_at(source)}.")
    if kind == fs.FileType.File:
        return read_table(source, settings)
    found = [name for name in TABLES if kind_of(join(source, name)) == fs.FileType.File]
    return read_table(join(source, found[0]), settings) if found else read_media([source])


def read_demo_corpus(source: str, settings: CorpusSettings) -> Listing:
    """Read the folder of a rendered demo corpus. Only its table is read, not its plan."""
    table = join(absolute(source), TABLES[0])
    if kind_of(table) != fs.FileType.File:
        raise UserError(f"{source} has no demo corpus: {TABLES[0]} does not exist. Render it: emi-ray demo.")
    return read_table(table, settings)


def read_table(path: str, settings: CorpusSettings, needs_media: bool = True) -> Listing:
    """Read one CSV or Parquet file.

    Args:
        needs_media: refuse a table without any media column.

    Raises:
        UserError: the table cannot be read, or lacks a required column.
    """
    table = read_columns(path, settings.encoding)
    _refuse_useless(table.column_names, path, needs_media)
    return _listing(table, sort_columns(table, settings, path), settings, path, needs_media)


def _listing(
    table: pa.Table, roles: Roles, settings: CorpusSettings, path: str, needs_media: bool = True
) -> Listing:
    findings = list(roles.findings)
    columns = {"clip_id": text_column(table, "clip_id", path), "split": _splits(table, roles.labels, path)}
    if roles.group:
        columns[GROUP] = text_column(table, roles.group, path)
    folder = _folder_of(path)
    for name in _PATH_COLUMNS:
        if name in table.column_names:
            columns[name] = join_all(folder, text_column(table, name, path))
    clips = pa.table(columns)
    if "transcript" in table.column_names:
        transcripts, remarks = _transcripts(
            clips, text_column(table, "transcript", path), path, settings.encoding
        )
        clips = clips.append_column("transcript", transcripts)
        findings += remarks
    findings += [
        finding for name in ("transcript", GROUP) for finding in _words_for_nothing(clips, name, path)
    ]
    for label in roles.labels:
        clips = clips.append_column(label, table[label])
    return Listing(clips, roles.labels, path, findings=tuple(findings), needs_media=needs_media)


def _words_for_nothing(clips: pa.Table, name: str, path: str) -> list[Finding]:
    if name not in clips.column_names:
        return []
    found = pc.is_in(clips[name], value_set=_NO_VALUE)
    message = (
        f"{path}: {name}: NA, None, nan and the like are read as text. Leave cells without a value empty"
    )
    return about("warning", message, ids_where(clips, found))


def read_clips(path: str, encoding: str | None = None) -> Listing:
    """Read ids, media and transcripts of a table of clips to predict. Its other columns are ignored.

    Raises:
        UserError: the table cannot be read, or has no ids or no media.
    """
    path = absolute(path)
    if kind_of(path) != fs.FileType.File:
        raise UserError(f"--clips {nothing_at(path)}.")
    table = read_columns(path, encoding)
    known = table.select([name for name in ("clip_id", *MEDIA_COLUMNS) if name in table.column_names])
    _refuse_useless(table.column_names, path, needs_media=True)
    return _listing(known, Roles((), None, ()), CorpusSettings(encoding=encoding), path)


def _folder_of(path: str) -> str:
    bare, question, query = path.partition("?") if "://" in path else (path, "", "")
    return (bare.rpartition("/")[0] or "/") + question + query


def _refuse_useless(names: Sequence[str], path: str, needs_media: bool) -> None:
    if "clip_id" not in names:
        near = difflib.get_close_matches("clip_id", names, n=1) or [n for n in names if "id" in n.lower()][:1]
        hint = f" Is it '{near[0]}'? Rename that." if near else ""
        raise UserError(f"{path}: no column 'clip_id' among {', '.join(names)}.{hint}")
    if needs_media and not set(MEDIA_COLUMNS) & set(names):
        raise UserError(
            f"{path}: no media column among {', '.join(names)}. "
            f"Give at least one of {', '.join(MEDIA_COLUMNS)}."
        )


def _splits(table: pa.Table, labels: Sequence[str], path: str) -> pa.ChunkedArray:
    if "split" in table.column_names:
        return text_column(table, "split", path)
    if labels:
        near = [name for name in table.column_names if name.lower() in ("fold", "partition", "set", "subset")]
        hint = f" Is it '{near[0]}'? Rename that." if near else ""
        raise UserError(
            f"{path}: no column 'split', but labels ({', '.join(labels)}). "
            f"Add it, with {', '.join(SPLITS)} for each clip.{hint}"
        )
    return pa.chunked_array([pa.repeat("test", table.num_rows)])


def _transcripts(
    clips: pa.Table, values: pa.ChunkedArray, path: str, encoding: str | None
) -> tuple[pa.ChunkedArray, list[Finding]]:
    """Return the transcripts; values that name a ``.txt`` file are replaced by its content."""
    named = pc.match_substring_regex(values, r"(?i)^[^\n]*\.txt$")
    if not pc.any(named).as_py():
        return values, []
    places = join_all(_folder_of(path), pc.if_else(named, values, pa.scalar(None, pa.string())))
    there = pc.fill_null(exist(places), False)
    spaced = pc.match_substring(values, " ")
    absent = pc.and_(pc.fill_null(named, False), pc.invert(pc.or_(there, pc.fill_null(spaced, False))))
    texts = pa.array(
        [text or None for text in read_texts(places.filter(there).to_pylist(), encoding)], pa.string()
    )
    values = pc.if_else(absent, pa.scalar(None, pa.string()), values)
    values = pc.replace_with_mask(values.combine_chunks(), there.combine_chunks(), texts)
    message = f"{path}: transcript: the .txt file does not exist; such clips count as without transcript"
    return pa.chunked_array([values]), about("warning", message, ids_where(clips, absent))
