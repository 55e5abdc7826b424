"""Determine the role of each column of a corpus table: a medium, the group, a label, or none.

Every numeric column without another role is a label, unless ``corpus.labels`` lists the labels. A column whose name
or content is like that of an id, a person, a fold or an age is refused until the user states its role: otherwise it
would silently be trained on and scored as a label.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from emi_ray.config import CorpusSettings
from emi_ray.corpus.columns import holds_numbers, numbers
from emi_ray.corpus.listing import Finding
from emi_ray.errors import UserError, choices
from emi_ray.schema import EMOTIONS, GROUP, RESERVED_COLUMNS

MIN_COUNTED = 8
"""Minimum number of clips from which consecutive integers are recognised as a row number."""


def _words(listing: str) -> frozenset[str]:
    return frozenset(listing.split())


_PEOPLE = _words(
    "speaker spk spkr speakers subject subj subjects participant participants ppt person persons people actor "
    "actress user respondent patient proband child student worker rater annotator coder judge talker singer "
    "performer client player donor identity pid sid"
)
_IDS = _words("id ids uid uuid guid idx index key code no nr num number row count")
_FOLDS = _words(
    "fold folds kfold cv split partition subset set batch block cluster session trial take visit part"
)
_TRAITS = _words(
    "age ages gender sex birth birthyear yob dob height weight race ethnicity education handedness years yrs months"
)
_FILES = _words(
    "clip video audio file filename utterance utt segment scene episode film movie dialogue dialog frame frames "
    "timestamp time date year month day duration dur length fps start end onset offset width size bytes seconds sec "
    "sample samples rate hz ms s"
)
_MEASURES = _PEOPLE | _IDS | _FOLDS | _TRAITS | _FILES
_TELLING = _words("id ids uid uuid idx fold age") | {"participantid"}
"""Words of which a single one in a name is sufficient."""

_GLUED = re.compile(
    rf"({'|'.join(sorted(_PEOPLE | _FILES, key=len, reverse=True))})(id|ids|no|nr|num|number|idx|index|code)"
)


@dataclass(frozen=True)
class Roles:
    """The roles of columns. ``labels`` are in order; ``group`` is the column with the person in a clip, or None."""

    labels: tuple[str, ...]
    group: str | None
    findings: tuple[Finding, ...]


def sort_columns(table: pa.Table, settings: CorpusSettings, where: str) -> Roles:
    """Determine the role of each column.

    Raises:
        UserError: ``corpus.labels`` or ``corpus.group`` names a column that does not exist or has another
            role, or the table has columns that look like an id, a fold or an age, and it is not stated
            whether they are labels.
    """
    group, findings = find_group(table.column_names, settings, where)
    free = [name for name in table.column_names if name not in (*RESERVED_COLUMNS, group)]
    if settings.labels is not None:
        labels = _declared(settings.labels, free, group, where)
        ignored = [name for name in free if name not in labels and holds_numbers(table[name])]
        if ignored:
            message = f"{where}: ignored, because corpus.labels does not name them: {', '.join(ignored)}."
            findings.append(Finding("info", message))
    else:
        labels = [name for name in free if _is_label(name, table[name], settings)]
        _refuse_doubtful(table, labels, settings, group, where)
    for name in free:
        if name not in labels and not (settings.labels is not None and holds_numbers(table[name])):
            findings.append(_ignored(name, group, where))
    return Roles(tuple(labels), group, tuple(findings))


def looks_like_no_label(name: str, column: pa.ChunkedArray) -> bool:
    """Return whether a column does not look like a label.

    That is, its name is like that of an id, a person, a fold, an age or a fact about the file, or it numbers the
    rows.
    """
    words = _split_name(name)
    if words and (set(words) <= _MEASURES or set(words) & _TELLING):
        return True
    return any(_GLUED.fullmatch(word) for word in words) or _counts_rows(column)


def find_group(
    names: Sequence[str], settings: CorpusSettings, where: str
) -> tuple[str | None, list[Finding]]:
    """Return the column with the person in a clip; None if there is none.

    Raises:
        UserError: ``corpus.group`` names a column that does not exist or has another role.
    """
    wanted = settings.group
    if wanted is None or (wanted == GROUP and GROUP not in names):
        return None, [_left_out(where)] if GROUP in names else []
    if wanted in RESERVED_COLUMNS and wanted != GROUP:
        raise UserError(
            f"corpus.group = '{wanted}': that column has another meaning. Name the column of people."
        )
    if wanted not in names:
        remedy = "Without groups: 'corpus.group=null'."
        raise UserError(
            f"{where}: corpus.group = '{wanted}': no such column: {choices(wanted, names)} {remedy}"
        )
    return wanted, [_left_out(where)] if wanted != GROUP and GROUP in names else []


def _left_out(where: str) -> Finding:
    message = f"{where}: column '{GROUP}' is ignored, because corpus.group names another one or none."
    return Finding("warning", message)


def _declared(labels: Sequence[str], free: Sequence[str], group: str | None, where: str) -> list[str]:
    for name in labels:
        if name in RESERVED_COLUMNS or name == group:
            raise UserError(f"corpus.labels: '{name}' has another meaning in {where} and cannot be a label.")
        if name not in free:
            hint = choices(name, free) if free else "the table has no column for it."
            remedy = "To use every numeric column: 'corpus.labels=null'."
            raise UserError(f"{where}: corpus.labels: no column '{name}': {hint} {remedy}")
    if repeated := [name for name in labels if labels.count(name) > 1]:
        raise UserError(f"corpus.labels names '{repeated[0]}' twice. Name each label once.")
    return list(labels)


def _is_index(name: str) -> bool:
    return not name or name.startswith(("Unnamed: ", "__index_level_"))


def _is_label(name: str, column: pa.ChunkedArray, settings: CorpusSettings) -> bool:
    if _is_index(name):
        return False
    return name in settings.label_ranges or name in EMOTIONS or holds_numbers(column)


def _refuse_doubtful(
    table: pa.Table, labels: Sequence[str], settings: CorpusSettings, group: str | None, where: str
) -> None:
    said = {*settings.label_ranges, *EMOTIONS}
    doubtful = [name for name in labels if name not in said and looks_like_no_label(name, table[name])]
    if not doubtful:
        return
    rest = ", ".join(_quoted(name) for name in labels if name not in doubtful)
    people = [name for name in doubtful if _names_people(name)]
    also = (
        f" If '{people[0]}' names the person in a clip, add 'corpus.group={people[0]}'."
        if people and not group
        else ""
    )
    raise UserError(
        f"{where}: {', '.join(map(repr, doubtful))} would become labels, because these columns are numeric, but "
        f"they look like an id, a person, a fold, an age or a fact about the file. State which columns are labels; "
        f"without these: 'corpus.labels=[{rest}]'.{also}"
    )


def _quoted(name: str) -> str:
    """Quote a name as YAML requires it in a list."""
    return name if re.fullmatch(r"[^\W\d][\w .-]*", name) and name.strip() == name else f'"{name}"'


def _ignored(name: str, group: str | None, where: str) -> Finding:
    if _is_index(name):
        reason = ": a row index."
    elif near := difflib.get_close_matches(name.lower(), RESERVED_COLUMNS, n=1):
        reason = f": did you mean '{near[0]}'?"
    elif _names_people(name) and not group:
        reason = f": if it names the person in a clip, use it as the group: 'corpus.group={name}'."
    else:
        reason = ", because it is not numeric."
    return Finding("warning", f"{where}: unknown column '{name}' ignored{reason}")


def _names_people(name: str) -> bool:
    words = _split_name(name)
    return bool(set(words) & _PEOPLE) or any(
        (match := _GLUED.fullmatch(word)) and match[1] in _PEOPLE for word in words
    )


def _split_name(name: str) -> list[str]:
    """Return the words of a name in lower case, without numbers: ``SpeakerID2`` and ``speaker_id_2`` are speaker,
    id.
    """
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    return [word for word in re.split(r"[\W_\d]+", parted.lower()) if word]


def _counts_rows(column: pa.ChunkedArray) -> bool:
    """Return whether the values are distinct consecutive integers, like row numbers."""
    values = numbers(column)[0].drop_null().to_numpy()
    if len(values) < MIN_COUNTED or not np.isfinite(values).all() or (values != np.round(values)).any():
        return False
    return len(np.unique(values)) == len(values) == values.max() - values.min() + 1
