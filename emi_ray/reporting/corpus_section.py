"""The section on the corpus: its splits and the distribution of its labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from emi_ray.corpus.statistics import CorpusStatistics, SplitStatistics, describe
from emi_ray.reporting.corpus_plots import label_histograms
from emi_ray.reporting.formatting import format_score, grouped, p_value, percent
from emi_ray.reporting.text_tables import TextTable
from emi_ray.schema import MODALITIES, labels_of


@dataclass(frozen=True)
class CorpusSection:
    """Content of the section; a corpus without labels has only the table of splits."""

    tables: Sequence[TextTable]
    labels: Sequence[str]
    histograms: str | None
    correlations: Sequence[Sequence[float]]


def build_corpus_section(clips: pa.Table) -> CorpusSection:
    """Build the section from ``clips.parquet``."""
    statistics = describe(clips)
    labelled = {name: split for name, split in statistics.splits.items() if split.num_labelled}
    tables = [split_table(statistics)]
    if labelled:
        tables.append(label_table(statistics, labelled))
    correlations = [[np.nan if r is None else r for r in row] for row in statistics.correlations]
    return CorpusSection(
        tables=tables,
        labels=statistics.label_names,
        histograms=_histograms(clips, list(labelled)) if labelled else None,
        correlations=correlations if labelled and len(correlations) > 1 else [],
    )


def split_table(statistics: CorpusStatistics) -> TextTable:
    """Build the table with the number of clips, labels and modalities of each split."""
    rows = [
        [
            name,
            grouped(split.num_clips),
            grouped(split.num_labelled),
            *(grouped(split.modalities[modality]) for modality in MODALITIES),
            percent(split.missing_text_share),
        ]
        for name, split in statistics.splits.items()
        if split.num_clips
    ]
    headings = [
        "split",
        "clips",
        "labelled",
        *(f"with {modality}" for modality in MODALITIES),
        "without text",
    ]
    note = (
        "A clip counts as having a modality if its media can contain it. The section on features shows what the "
        "extraction found."
    )
    return TextTable("Splits", headings, rows, note)


def label_table(statistics: CorpusStatistics, labelled: dict[str, SplitStatistics]) -> TextTable:
    """Build the table with mean, deviation and zeros of each label, and its shift between train and val."""
    rows = []
    for label in statistics.label_names:
        of_splits = [split.labels[label] for split in labelled.values()]
        shift = statistics.shifts.get(label)
        rows.append(
            [
                label,
                *(format_score(each.mean, 4) for each in of_splits),
                *(format_score(each.std) for each in of_splits),
                *(percent(each.zero_share) for each in of_splits),
                format_score(shift.statistic if shift else None),
                p_value(shift.p_value if shift else None),
            ]
        )
    quantities = ("mean", "standard deviation", "at the lowest")
    headings = [f"{quantity}, {name}" for quantity in quantities for name in labelled]
    note = "KS: two-sample Kolmogorov-Smirnov statistic, train against val, and its p-value."
    return TextTable("Labels", ["label", *headings, "KS", "p"], rows, note)


def _histograms(clips: pa.Table, splits: Sequence[str]) -> str:
    labels = labels_of(clips.schema)
    values = {}
    for split in splits:
        rows = clips.filter(pc.equal(clips["split"], split))
        columns = {label.name: _column_of(rows, label.name) for label in labels}
        values[split] = {name: column[~np.isnan(column)] for name, column in columns.items()}
    return label_histograms("labels", labels, values)


def _column_of(table: pa.Table, name: str) -> np.ndarray:
    """Return a column as (N,) float64, with NaN for null."""
    return np.asarray(table[name].to_numpy(), dtype=np.float64)
