"""Read a corpus with the adaptor of its kind, check it, and convert it to one schema."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from emi_ray.config import CorpusSettings
from emi_ray.corpus.checks import check_groups, check_ids, check_media, check_splits
from emi_ray.corpus.files import refuse_credentials
from emi_ray.corpus.labels import CheckedLabels, check_labels
from emi_ray.corpus.leaks import check_leaks, check_spelling
from emi_ray.corpus.listing import Finding, Listing
from emi_ray.corpus.statistics import split_statistics
from emi_ray.corpus.table import read_demo_corpus, read_table_corpus
from emi_ray.corpus.vidmimic2 import read_vidmimic2
from emi_ray.errors import UserError, choices
from emi_ray.schema import GROUP, RESERVED_COLUMNS, SPLITS, Label, clips_schema, labels_of
from emi_ray.wording import plural

ADAPTORS: dict[str, Callable[[str, CorpusSettings], Listing]] = {
    "vidmimic2": read_vidmimic2,
    "table": read_table_corpus,
    "demo": read_demo_corpus,
}


@dataclass(frozen=True, repr=False)
class Corpus:
    """A checked corpus: ``clips`` in :func:`emi_ray.schema.clips_schema`, and the findings of the checks.

    Examples:
        >>> corpus = emi_ray.init("other", "clips.csv")
        >>> corpus.labels[0]
        Label(name='Joy', low=0.0, high=1.0)
        >>> [str(finding) for finding in corpus.warnings]
        []
    """

    clips: pa.Table
    findings: tuple[Finding, ...] = ()

    @property
    def labels(self) -> tuple[Label, ...]:
        return labels_of(self.clips.schema)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == "warning")

    def __repr__(self) -> str:
        counts = Counter(self.clips["split"].to_pylist())
        parts = ", ".join(f"{split} {counts[split]:,}" for split in SPLITS if counts[split])
        found = f"{plural(len(self.labels), 'label')}; {plural(len(self.warnings), 'warning')}"
        return f"Corpus({plural(self.clips.num_rows, 'clip')}: {parts}; {found})"


def read_corpus(kind: str, source: str, settings: CorpusSettings) -> Corpus:
    """Read and check a corpus.

    Args:
        kind: a name in ``ADAPTORS``.
        source: the file or folder for the adaptor: a local path or a ``pyarrow.fs`` URI.

    Raises:
        UserError: the kind is unknown, the source cannot be read, or the corpus has errors.
    """
    if kind not in ADAPTORS:
        raise UserError(f"--corpus '{kind}': {choices(kind, ADAPTORS)}")
    return validate_corpus(ADAPTORS[kind](source, settings), settings)


def validate_corpus(listing: Listing, settings: CorpusSettings) -> Corpus:
    """Check the result of an adaptor, and convert it to the schema of ``clips.parquet``.

    Raises:
        UserError: the corpus has errors; the message has one line for each.
    """
    if not listing.clips.num_rows:
        raise UserError(f"{listing.where}: it has no clips.")
    refuse_credentials(listing.clips)
    checked = check_labels(listing, settings)
    findings = [
        *listing.findings,
        *check_ids(listing),
        *check_splits(listing),
        *check_groups(listing),
        *check_spelling(listing),
        *check_leaks(listing),
        *check_media(listing),
        *checked.findings,
    ]
    errors = [str(finding) for finding in findings if finding.severity == "error"]
    if errors:
        raise UserError("\n".join(errors))
    clips = _conform(listing.clips, checked)
    findings.extend(_contents(clips))
    findings.sort(key=lambda finding: finding.severity, reverse=True)
    return Corpus(clips, tuple(findings))


def conform(listing: Listing, settings: CorpusSettings) -> pa.Table:
    """Convert the result of an adaptor to the schema of ``clips.parquet``, without checks."""
    return _conform(listing.clips, check_labels(listing, settings))


def _contents(clips: pa.Table) -> Iterator[Finding]:
    """Describe the content: the labels, the groups, and for each split the number of clips by modality."""
    labels = labels_of(clips.schema)
    if labels:
        ranges = ", ".join(f"{label.name} [{label.low:g}, {label.high:g}]" for label in labels)
        yield Finding("info", f"labels: {ranges}.")
    groups = clips[GROUP]
    if groups.null_count < len(groups):
        lacking = f"; {plural(groups.null_count, 'clip', 'have')} none" if groups.null_count else ""
        yield Finding("info", f"groups: {len(groups.drop_null().unique()):,}{lacking}.")
    for split in SPLITS:
        part = split_statistics(clips.filter(pc.equal(clips["split"], split)), labels)
        if part.num_clips:
            counts = part.modalities.items() if any(part.modalities.values()) else ()
            having = [f"{name} {count:,} ({count / part.num_clips:.1%})" for name, count in counts]
            sizes = f"{plural(part.num_clips, 'clip')}, {part.num_labelled:,} labelled"
            yield Finding("info", f"{split}: {'; '.join(filter(None, [sizes, ', '.join(having)]))}.")


def _conform(clips: pa.Table, checked: CheckedLabels) -> pa.Table:
    columns = [
        clips[name] if name in clips.column_names else pa.nulls(clips.num_rows, pa.string())
        for name in RESERVED_COLUMNS
    ]
    schema = clips_schema(checked.labels)
    return pa.Table.from_arrays([*columns, *checked.values.columns], schema=schema).combine_chunks()
