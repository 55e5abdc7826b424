"""Statistics of a corpus for the report. All results can be written as JSON."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from scipy import stats

from emi_ray.corpus.listing import MEDIA_OF
from emi_ray.schema import MEDIA_COLUMNS, SPLITS, Label, Modality, labels_of


@dataclass(frozen=True)
class LabelStatistics:
    """One label in one split. ``zero_share`` is the share of labelled clips at the low end of the range."""

    num_labelled: int
    mean: float | None
    std: float | None
    zero_share: float | None


@dataclass(frozen=True)
class SplitStatistics:
    """One split: number of clips by medium, by modality (with any medium that provides it) and by label."""

    num_clips: int
    num_labelled: int
    media: dict[str, int]
    modalities: dict[Modality, int]
    missing_text_share: float | None
    labels: dict[str, LabelStatistics]


@dataclass(frozen=True)
class Shift:
    """Two-sample Kolmogorov-Smirnov test of a label, train against val: statistic and two-sided p-value."""

    statistic: float
    p_value: float


@dataclass(frozen=True)
class CorpusStatistics:
    """All statistics. ``correlations`` (L, L) is Pearson's r between labels over train and val; None if undefined."""

    splits: dict[str, SplitStatistics]
    shifts: dict[str, Shift]
    label_names: tuple[str, ...]
    correlations: list[list[float | None]]


def describe(clips: pa.Table) -> CorpusStatistics:
    """Compute the statistics of a ``clips.parquet`` table. ``dataclasses.asdict`` of the result is JSON."""
    labels = labels_of(clips.schema)
    return CorpusStatistics(
        splits={split: split_statistics(_in_splits(clips, split), labels) for split in SPLITS},
        shifts=label_shifts(clips),
        label_names=tuple(label.name for label in labels),
        correlations=label_correlations(clips),
    )


def split_statistics(clips: pa.Table, labels: Sequence[Label]) -> SplitStatistics:
    """Count the clips of one split."""
    present = {name: pc.is_valid(clips[name]).to_numpy() for name in MEDIA_COLUMNS}
    modalities = {
        modality: int(np.logical_or.reduce([present[name] for name in media]).sum())
        for modality, media in MEDIA_OF.items()
    }
    values = _label_matrix(clips, labels)
    num_clips = clips.num_rows
    return SplitStatistics(
        num_clips=num_clips,
        num_labelled=int((~np.isnan(values)).any(axis=1).sum()),
        media={name: int(mask.sum()) for name, mask in present.items()},
        modalities=modalities,
        missing_text_share=1 - modalities["text"] / num_clips if num_clips else None,
        labels={
            label.name: label_statistics(values[:, column], label.low) for column, label in enumerate(labels)
        },
    )


def label_statistics(values: np.ndarray, low: float) -> LabelStatistics:
    """Compute mean, population standard deviation and share at ``low`` of ``values`` (N,), NaN where unlabelled."""
    known = values[~np.isnan(values)]
    if not len(known):
        return LabelStatistics(0, None, None, None)
    return LabelStatistics(len(known), float(known.mean()), float(known.std()), float((known == low).mean()))


def label_shifts(clips: pa.Table) -> dict[str, Shift]:
    """Test for each label whether its distributions in train and val differ. Labels missing in either are left out.

    The p-value is asymptotic, because the exact one does not hold with ties, which labels have many of.
    """
    shifts = {}
    train, val = _in_splits(clips, "train"), _in_splits(clips, "val")
    for label in labels_of(clips.schema):
        before, after = (part[label.name].drop_null().to_numpy() for part in (train, val))
        if len(before) and len(after):
            test = stats.ks_2samp(before, after, method="asymp")
            shifts[label.name] = Shift(float(test.statistic), float(test.pvalue))
    return shifts


def label_correlations(clips: pa.Table) -> list[list[float | None]]:
    """Compute Pearson's r (L, L) between labels over the clips of train and val that have both."""
    values = _label_matrix(_in_splits(clips, "train", "val"), labels_of(clips.schema))
    matrix = pd.DataFrame(values).corr(min_periods=2).to_numpy()
    return [[None if np.isnan(r) else float(r) for r in row] for row in matrix]


def _in_splits(clips: pa.Table, *splits: str) -> pa.Table:
    return clips.filter(pc.is_in(clips["split"], pa.array(splits)))


def _label_matrix(clips: pa.Table, labels: Sequence[Label]) -> np.ndarray:
    """Return labels (N, L) float64, NaN where unlabelled."""
    columns = [clips[label.name].to_numpy() for label in labels]
    return np.column_stack(columns) if columns else np.empty((clips.num_rows, 0))
