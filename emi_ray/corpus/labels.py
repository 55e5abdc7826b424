"""Read labels as numbers with their ranges, and find mistakes in them."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from emi_ray.config import CorpusSettings
from emi_ray.corpus.columns import has_decimal_commas, numbers
from emi_ray.corpus.listing import Finding, Listing, about, ids_where
from emi_ray.errors import choices
from emi_ray.schema import EMOTION_LABELS, Label, is_taken, snake


@dataclass(frozen=True)
class CheckedLabels:
    """Labels as numbers. ``values`` has one float64 column per label, null where a clip has no label."""

    labels: tuple[Label, ...]
    values: pa.Table
    findings: tuple[Finding, ...]


def check_labels(listing: Listing, settings: CorpusSettings) -> CheckedLabels:
    """Read the label columns as numbers, assign each its range, and find mistakes.

    A range is the declared one, [0, 1] for the six emotions, or otherwise the smallest and largest value in the
    training split (in all clips if there is no training split).
    """
    findings = [*_misnamed(listing, settings)]
    labels: list[Label] = []
    values: dict[str, np.ndarray] = {}
    for name in listing.labels:
        column, wrong = numbers(listing.clips[name])
        findings += [*_not_numbers(listing, name, wrong), *_read_otherwise(listing, name)]
        values[name] = column.to_numpy()
        declared = _declared_range(name, settings)
        labels.append(declared or _observed_range(name, values[name], _in_split(listing, "train")))
        findings += _out_of_range(listing, labels[-1], values[name], bool(declared))
    findings += [*_unlabelled(listing, values), *_constant(listing, values)]
    columns = [pa.array(column, from_pandas=True) for column in values.values()]
    return CheckedLabels(tuple(labels), pa.table(columns, names=list(values)), tuple(findings))


def _in_split(listing: Listing, *splits: str) -> np.ndarray:
    mask: np.ndarray = pc.is_in(listing.clips["split"], pa.array(splits)).to_numpy()
    return mask


def _misnamed(listing: Listing, settings: CorpusSettings) -> Iterator[Finding]:
    for name, (low, high) in settings.label_ranges.items():
        if name not in listing.labels:
            hint = choices(name, listing.labels) if listing.labels else "the corpus has none."
            remedy = "Without declared ranges: 'corpus.label_ranges={}'."
            yield Finding("error", f"corpus.label_ranges.{name}: no such label: {hint} {remedy}")
        if not low < high:
            yield Finding(
                "error", f"corpus.label_ranges.{name} = [{low:g}, {high:g}]: the lower end must come first."
            )
    for name in filter(is_taken, listing.labels):
        remedy = "Rename the column" + (
            "" if settings.labels else ", or leave it out: corpus.labels names the labels"
        )
        yield Finding(
            "error",
            f"{listing.where}: a label cannot be named '{name}', because tables of results use that name. {remedy}.",
        )
    for short, times in Counter(map(snake, listing.labels)).items():
        if times > 1:
            alike = [name for name in listing.labels if snake(name) == short]
            message = (
                f"{listing.where}: {' and '.join(map(repr, alike))} have the same name in scores: {short}. "
            )
            yield Finding("error", message + "Rename one.")


def _not_numbers(listing: Listing, name: str, wrong: pa.ChunkedArray) -> list[Finding]:
    if not pc.any(wrong).as_py():
        return []
    value = listing.clips[name].filter(wrong)[0].as_py()
    message = (
        f"{listing.where}: {name} = '{value}' is not a number. Write numbers with a decimal point and without "
        "thousands separators, or leave the cell empty if the value is unknown"
    )
    return about("error", message, ids_where(listing.clips, wrong))


def _read_otherwise(listing: Listing, name: str) -> Iterator[Finding]:
    column = listing.clips[name]
    if has_decimal_commas(column):
        value = column.filter(pc.match_substring(column, ","))[0].as_py()
        message = f"{listing.where}: {name} is written with decimal commas: '{value}' is read as"
        yield Finding("info", f"{message} {value.replace(',', '.')}.")


def _declared_range(name: str, settings: CorpusSettings) -> Label | None:
    if name in settings.label_ranges:
        return Label(name, *settings.label_ranges[name])
    return next((label for label in EMOTION_LABELS if label.name == name), None)


def _observed_range(name: str, values: np.ndarray, train: np.ndarray) -> Label:
    """Return the range in the training split; for a constant c it is [c, c + 1], so that values can be scaled."""
    finite = np.isfinite(values)
    known = values[finite & train] if (finite & train).any() else values[finite]
    if not len(known):
        return Label(name)
    low, high = float(known.min()), float(known.max())
    return Label(name, low, high if high > low else low + 1)


def _out_of_range(listing: Listing, label: Label, values: np.ndarray, declared: bool) -> list[Finding]:
    wrong, span = (values < label.low) | (values > label.high), f"[{label.low:g}, {label.high:g}]"
    if not declared:
        message = f"{listing.where}: {label.name} is outside {span}, its range in train"
        infinite = np.isinf(values)
        remarks = about(
            "error",
            f"{listing.where}: {label.name} is infinite. Write a number, or leave the cell empty",
            _ids(listing, infinite),
        )
        return remarks + about("warning", message, _ids(listing, wrong & ~infinite))
    if not wrong.any():
        return []
    why = "The six emotions range from 0 to 1" if label in EMOTION_LABELS else "That is its declared range"
    message = (
        f"{listing.where}: {label.name} = {values[wrong][0]:.15g} is outside {span}. {why}. "
        f"Correct the value, or declare another range: '{_range_setting(label.name)}'"
    )
    return about("error", message, _ids(listing, wrong))


def _range_setting(name: str) -> str:
    """Return the setting that declares the range of a label.

    A point in a name needs JSON, as it would begin a subsection.
    """
    if set(name) & set(".="):
        return f"corpus.label_ranges={{{json.dumps(name, ensure_ascii=False)}: [LOW, HIGH]}}"
    return f"corpus.label_ranges.{name}=[LOW, HIGH]"


def _unlabelled(listing: Listing, values: dict[str, np.ndarray]) -> Iterator[Finding]:
    """Report clips of train and val without labels, and a split that has no labels at all."""
    where, train, val = listing.where, _in_split(listing, "train"), _in_split(listing, "val")
    empty = {name: np.isnan(column) for name, column in values.items()}
    for split, mask in (("train", train), ("val", val)):
        if not mask.any():
            continue
        if all(missing[mask].all() for missing in empty.values()):
            what = "has a label" if listing.labels else "has a label: the table has no label column"
            yield Finding("warning", f"{where}: no {split} clip {what}. It cannot be used as {split}.")
            continue
        lacking = {name: int(missing[mask].sum()) for name, missing in empty.items() if missing[mask].any()}
        if lacking:
            named = ", ".join(f"{name} {count:,}" for name, count in lacking.items())
            message = (
                f"{where}: {split} clips with missing labels, which are ignored in loss and score ({named})"
            )
            anywhere = np.logical_or.reduce(list(empty.values()))
            yield from about("warning", message, _ids(listing, anywhere & mask))


def _constant(listing: Listing, values: dict[str, np.ndarray]) -> Iterator[Finding]:
    for split in ("train", "val"):
        mask = _in_split(listing, split)
        for name, column in values.items():
            known = column[mask & ~np.isnan(column)]
            if len(known) > 1 and known.min() == known.max():
                consequence = (
                    "nothing can be learned from it" if split == "train" else "its Pearson is undefined (NaN)"
                )
                message = (
                    f"{listing.where}: label '{name}' is constant in {split} ({known[0]:g}): {consequence}."
                )
                yield Finding("warning", message)


def _ids(listing: Listing, chosen: np.ndarray) -> list[str]:
    return ids_where(listing.clips, pa.array(chosen))
