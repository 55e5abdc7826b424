"""Which clips there are: read by the adaptor of the corpus's kind, checked, and put into one schema."""

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from emi_ray.config import CorpusSettings
from emi_ray.corpus.checks import check_ids, check_labels, check_media, check_splits
from emi_ray.corpus.listing import Finding, Listing
from emi_ray.corpus.table import read_demo_corpus, read_table_corpus
from emi_ray.corpus.vidmimic2 import read_vidmimic2
from emi_ray.errors import UserError, choices
from emi_ray.schema import MEDIA_COLUMNS, Label, clips_schema, labels_of

ADAPTORS: dict[str, Callable[[str, CorpusSettings], Listing]] = {
    "vidmimic2": read_vidmimic2,
    "table": read_table_corpus,
    "demo": read_demo_corpus,
}


@dataclass(frozen=True)
class Corpus:
    """A checked corpus: ``clips`` in :func:`emi_ray.schema.clips_schema`, and what was found on the way."""

    clips: pa.Table
    findings: tuple[Finding, ...] = ()

    @property
    def labels(self) -> tuple[Label, ...]:
        return labels_of(self.clips.schema)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == "warning")


def read_corpus(kind: str, source: str, settings: CorpusSettings) -> Corpus:
    """Read and check a corpus.

    Args:
        kind: a name in ``ADAPTORS``.
        source: the file or folder, as the adaptor wants it: a local path or a ``pyarrow.fs`` URI.

    Raises:
        UserError: there is no such kind, the source cannot be read, or the corpus cannot work.
    """
    if kind not in ADAPTORS:
        raise UserError(f"--corpus '{kind}': {choices(kind, ADAPTORS)}")
    return validate_corpus(ADAPTORS[kind](source, settings), settings)


def validate_corpus(listing: Listing, settings: CorpusSettings) -> Corpus:
    """Check what an adaptor read, and put it into the schema of ``clips.parquet``.

    Raises:
        UserError: the corpus cannot work; the message has one line an error.
    """
    if not listing.clips.num_rows:
        raise UserError(f"{listing.where}: no clip in it.")
    labels, values, label_findings = check_labels(listing, settings)
    findings = (
        *check_ids(listing),
        *check_splits(listing),
        *label_findings,
        *check_media(listing),
        *listing.findings,
    )
    errors = [str(finding) for finding in findings if finding.severity == "error"]
    if errors:
        raise UserError("\n".join(errors))
    return Corpus(_conform(listing.clips, labels, values), findings)


def _conform(clips: pa.Table, labels: tuple[Label, ...], values: pa.Table) -> pa.Table:
    """The clips in their schema: absent media columns are null, blank media too."""
    schema = clips_schema(labels)
    columns = [
        clips[name] if name in clips.column_names else pa.nulls(clips.num_rows, pa.string())
        for name in ("clip_id", "split", *MEDIA_COLUMNS)
    ]
    table = pa.Table.from_arrays([*columns, *values.columns], schema=schema)
    return table.combine_chunks()


__all__ = ["ADAPTORS", "Corpus", "Finding", "Listing", "read_corpus", "validate_corpus"]
