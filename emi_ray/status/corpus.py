"""Compare ``clips.parquet`` with its source, since a table may have been edited without running ``emi-ray init``."""

import shlex
from collections import Counter
from typing import Any

import pyarrow as pa

from emi_ray.config import CorpusSettings
from emi_ray.corpus.setup import read_again
from emi_ray.errors import EmiRayError
from emi_ray.schema import MEDIA_COLUMNS, labels_of
from emi_ray.status.status_line import Line
from emi_ray.wording import plural
from emi_ray.workspace import Workspace

_SAID = dict.fromkeys(MEDIA_COLUMNS, "their media or transcripts") | {
    "split": "their splits",
    "group": "their groups",
}


def corpus_line(
    workspace: Workspace, settings: CorpusSettings, clips: pa.Table
) -> tuple[list[Line], pa.Table]:
    """Compare the clips of a workspace with their source.

    Clips without media that are not in the source come from an import, and are ignored. A workspace that was
    created by an import has no line.

    Returns:
        The line (or nothing), and the clips as ``emi-ray init`` would write them now.
    """
    try:
        now = read_again(settings)
    except EmiRayError as error:
        why = f"it cannot be compared with its source: {error}"
        return [Line("corpus", settings.kind or "", current=clips.num_rows, why=(why,))], clips
    if now is None:
        return [], clips
    line = _compared(workspace, settings, clips, now)
    return [line], now if line.command else clips


def _compared(workspace: Workspace, settings: CorpusSettings, clips: pa.Table, now: pa.Table) -> Line:
    before, after = _by_id(clips), _by_id(now)
    # A clip without media comes from imported features and was never in the source.
    gone = [i for i in before if i not in after and any(before[i][name] for name in MEDIA_COLUMNS)]
    new = [i for i in after if i not in before]
    reasons: Counter[str] = Counter()
    changed = set()
    for clip_id in before.keys() & after.keys():
        then, today = before[clip_id], after[clip_id]
        # Columns in only one of them are labels, which are compared below.
        names = [name for name in then.keys() & today.keys() if then[name] != today[name]]
        reasons.update({_SAID.get(name, "values of labels") for name in names})
        changed.update([clip_id] * bool(names))
    why = [
        f"{plural(count, 'clip')}: {what} differ in the source now" for what, count in sorted(reasons.items())
    ]
    if labels_of(clips.schema) != labels_of(now.schema):
        why.append("labels, their ranges or their order differ in the source now")
    if gone:
        why.append(f"{plural(len(gone), 'clip', 'are')} no longer in the source ({gone[0]})")
    if new:
        why.append(f"{plural(len(new), 'clip', 'are')} new in the source ({new[0]})")
    source = shlex.quote(settings.source or "")
    return Line(
        "corpus",
        str(settings.kind),
        current=len(before) - len(changed) - len(gone),
        stale=len(changed) + len(gone),
        missing=len(new),
        why=tuple(why),
        command=f"emi-ray init -w {workspace.quoted} --corpus {settings.kind} --source {source}"
        if why
        else None,
    )


def _by_id(clips: pa.Table) -> dict[str, dict[str, Any]]:
    return {row["clip_id"]: row for row in clips.to_pylist()}
