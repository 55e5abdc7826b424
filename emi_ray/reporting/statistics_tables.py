"""Corpus statistics as in section 3 of the paper: clips, labels, lengths and missing text."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from emi_ray.corpus.splits import GROUP, groups_of, has_groups
from emi_ray.corpus.statistics import describe
from emi_ray.reporting.corpus_section import label_table, split_table
from emi_ray.reporting.formatting import UNKNOWN, format_score, grouped, percent
from emi_ray.reporting.text_tables import TextTable
from emi_ray.schema import MODALITIES, SPLITS
from emi_ray.store.feature_store import FeatureStore, stores_of
from emi_ray.workspace import Workspace

LONG_STEPS = 120
"""Threshold of the paper, in steps: 6.2 to 6.5 % of its clips have more frames."""


def statistics_tables(workspace: Workspace) -> list[TextTable]:
    """Build tables of clips by split, labels with their shift, label correlations, people, and lengths by extractor.

    Raises:
        UserError: the workspace has no corpus.
    """
    clips = workspace.clips()
    found = describe(clips)
    labelled = {name: split for name, split in found.splits.items() if split.num_labelled}
    tables = [split_table(found)]
    if labelled:
        tables += [label_table(found, labelled), _correlations(found.label_names, found.correlations)]
    if has_groups(clips):
        tables.append(_people(clips))
    lengths = _lengths(workspace, clips)
    return [*tables, lengths] if lengths.rows else tables


def _correlations(labels: Sequence[str], correlations: Sequence[Sequence[float | None]]) -> TextTable:
    rows = [[label, *(format_score(r) for r in row)] for label, row in zip(labels, correlations, strict=True)]
    return TextTable("Correlation of the labels", ["label", *labels], rows, "Pearson's r over train and val.")


def _people(clips: pa.Table) -> TextTable:
    groups, splits = groups_of(clips), np.array(clips["split"].to_pylist())
    rows = []
    for split in SPLITS:
        in_split, counts = np.unique(groups[splits == split], return_counts=True)
        # People in two splits make validation scores optimistic.
        others = set(groups[splits != split])
        if len(in_split):
            shared = sum(group in others for group in in_split)
            rows.append(
                [
                    split,
                    grouped(len(in_split)),
                    grouped(float(np.median(counts))),
                    str(counts.max()),
                    str(shared),
                ]
            )
    headings = ["split", "groups", "clips each, median", "most", "groups in other splits too"]
    note = f"Groups are from the column '{GROUP}'; a clip without a group is a group of its own."
    return TextTable("People", headings, rows, note)


def _lengths(workspace: Workspace, clips: pa.Table) -> TextTable:
    """Build the table of steps and durations of the clips with features, by extractor and split."""
    split_of = dict(zip(clips["clip_id"].to_pylist(), clips["split"].to_pylist(), strict=True))
    rows = []
    for store in (store for modality in MODALITIES for store in stores_of(workspace, modality)):
        ids, steps, seconds = _measure(store)
        if not len(steps) or steps.max() <= 1:
            continue
        # Clips that left the corpus have no split and are in no row.
        splits = np.array([split_of.get(clip_id, "") for clip_id in ids])
        name = f"{store.modality}: {store.describe()['extractor']}"
        rows += [
            _length_row(f"{name}, {split}", steps[splits == split], seconds[splits == split])
            for split in SPLITS
            if (splits == split).any()
        ]
    headings = [
        "features",
        "clips",
        "steps, median",
        "longest",
        f"over {LONG_STEPS}",
        "seconds, mean",
        "least",
        "most",
    ]
    note = "Seconds: time of the last step of a clip."
    return TextTable("Lengths", headings, rows, note)


def _length_row(name: str, steps: np.ndarray, seconds: np.ndarray) -> list[str]:
    timed = seconds[np.isfinite(seconds)]
    times = (
        [format_score(float(each(timed)), 2) for each in (np.mean, np.min, np.max)]
        if len(timed)
        else [UNKNOWN] * 3
    )
    share = percent(float((steps > LONG_STEPS).mean()))
    return [
        name,
        grouped(len(steps)),
        grouped(float(np.median(steps))),
        grouped(int(steps.max())),
        share,
        *times,
    ]


def _measure(store: FeatureStore) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return the clip ids, the number of steps of each clip, and the time of its last step (s, NaN if unknown)."""
    ids: list[str] = []
    steps, seconds = [np.empty(0, np.int64)], [np.empty(0)]
    for table in store.tables(["clip_id", "num_steps", "timestamps_s"]):
        ids += table["clip_id"].to_pylist()
        steps.append(table["num_steps"].to_numpy().astype(np.int64))
        last = [times[-1] if times else np.nan for times in table["timestamps_s"].to_pylist()]
        seconds.append(np.array(last, dtype=float))
    return ids, np.concatenate(steps), np.concatenate(seconds)
