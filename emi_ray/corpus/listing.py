"""The result of corpus adaptors, and findings about a corpus."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from emi_ray.schema import Modality

MEDIA_OF: dict[Modality, tuple[str, ...]] = {
    "text": ("transcript",),
    "audio": ("audio", "video"),
    "vision": ("video", "faces_dir"),
    "motion": ("video", "faces_dir", "openface_csv"),
}
"""The media from which a modality can be extracted; one of them is enough."""

Severity = Literal["error", "warning", "info"]

NUM_EXAMPLES = 5


@dataclass(frozen=True)
class Finding:
    """One finding about a corpus: an ``error`` refuses the corpus, a ``warning`` has a disadvantage, ``info`` is a
    fact.

    Attributes:
        num_clips: number of clips that it concerns; 0: the corpus as a whole.
        examples: the first few ids.
    """

    severity: Severity
    message: str
    num_clips: int = 0
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.num_clips:
            return self.message
        named = ", ".join(self.examples)
        more = ", …" if len(self.examples) < self.num_clips else ""
        clips = "clip" if self.num_clips == 1 else "clips"
        return f"{self.message} [{self.num_clips:,} {clips}: {named}{more}]"


@dataclass(frozen=True)
class Listing:
    """A corpus as an adaptor has read it, unchecked.

    Args:
        clips: ``clip_id``, ``split``, ``group`` if it is known, and any of the media columns as text; labels
            as numbers or text.
        labels: names of the label columns.
        where: the file or folder that messages name.
        verified: the media paths come from folder listings, so that they exist.
        findings: findings of the adaptor.
        needs_media: whether a corpus without any media is a mistake (not if features come from elsewhere).
    """

    clips: pa.Table
    labels: tuple[str, ...]
    where: str
    verified: bool = False
    findings: tuple[Finding, ...] = ()
    needs_media: bool = True


def about(severity: Severity, message: str, clip_ids: Sequence[str]) -> list[Finding]:
    """Return a list with one finding about ``clip_ids``; empty if there are no ids."""
    if not clip_ids:
        return []
    return [Finding(severity, message, len(clip_ids), tuple(clip_ids[:NUM_EXAMPLES]))]


def ids_where(clips: pa.Table, chosen: pa.ChunkedArray) -> list[str]:
    """Return the ids of the rows where ``chosen`` is true, each once, in order."""
    ids = pc.fill_null(clips["clip_id"].filter(pc.fill_null(chosen, False)), "(no id)")
    return list(ids.unique().to_pylist())
