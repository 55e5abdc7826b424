"""Count clips that actors have finished, but whose outcomes did not arrive because their pass had ended.

When a pass ends early, for example because nodes joined, blocks are still on their way. Their features and failures
are in the store, so that they are not processed again.
"""

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from emi_ray.extraction.batches import outcome
from emi_ray.extraction.pending import todo_column
from emi_ray.extraction.summary import ExtractionSummary
from emi_ray.schema import MODALITIES, Modality
from emi_ray.wording import plural

Failures = Callable[[Modality], pa.Table]
"""Returns the failures of a modality that count, in the columns of ``FAILURES_SCHEMA``."""


def add_unseen(
    summary: ExtractionSummary, lost: pa.Table, left: pa.Table, failures: Failures, are_new: bool
) -> None:
    """Add clips to a summary that a pass has lost, and that have no work left in a modality.

    Args:
        lost: the work of these clips before the pass.
        left: their work after it.
        are_new: False if an earlier pass has counted these clips.
    """
    for modality in MODALITIES:
        if (todo := todo_column(modality)) in lost.column_names:
            done = _ids(lost, todo) - _ids(left, todo)
            _add_outcomes(summary, modality, done, failures)
    whole = set(lost["clip_id"].to_pylist()) - set(left["clip_id"].to_pylist())
    if whole and are_new:
        summary.clips += len(whole)
        summary.add_outcome(outcome("decode", "ok"), len(whole))
    if whole:
        summary.note(
            f"{plural(len(whole), 'clip', 'were')} finished while a pass ended: their time is not counted"
        )


def _add_outcomes(summary: ExtractionSummary, modality: Modality, done: set[str], failures: Failures) -> None:
    if not done:
        return
    table = failures(modality)
    rows = table.filter(pc.is_in(table["clip_id"], pa.array(sorted(done)))).to_pylist()
    for row in rows:
        status = "missing" if row["stage"] == "missing" else "failed"
        summary.add_failure(row["clip_id"], outcome(modality, status, row["error"]))
    if num_ok := len(done) - len(rows):
        summary.add_outcome(outcome(modality, "ok"), num_ok)


def _ids(work: pa.Table, todo: str) -> set[str]:
    """Return the ids of the clips with something to do for a modality."""
    return set(work.filter(work[todo].is_valid())["clip_id"].to_pylist())
