"""Determine whether predictions of new clips belong to the present clips and model."""

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence

import pyarrow as pa

from emi_ray.ensembles import ENSEMBLE
from emi_ray.errors import EmiRayError
from emi_ray.extraction.pending import plan_work
from emi_ray.extraction.pipeline import plan_pipeline
from emi_ray.new_clips import RECORD, Record, read_record, read_sources
from emi_ray.results.runs import DESCRIPTION
from emi_ray.status.status_line import Line
from emi_ray.workspace import CLIPS, Workspace


def prediction_lines(workspace: Workspace, runs: Sequence[Line]) -> Iterator[Line]:
    """Yield one line per set of clips that a run has predicted.

    Args:
        runs: the lines of runs and ensembles; predictions of a stale one are stale.
    """
    stale = {line.name for line in runs if line.stale}
    for recipe in workspace.folders("predictions"):
        for seed in workspace.folders(f"predictions/{recipe}"):
            for name in workspace.folders(f"predictions/{recipe}/{seed}"):
                yield _prediction(workspace, f"{recipe}/{seed}", name, stale)


def _prediction(workspace: Workspace, run: str, name: str, stale_runs: set[str]) -> Line:
    place, where = workspace.inner(f"predictions/{run}/{name}"), f"{run}/{name}"
    if not (place.exists(CLIPS) and place.exists(RECORD)):
        return Line("predictions", where, missing=1, why=("it was not started",))
    before = place.clips()
    try:
        record = read_record(place)
    except EmiRayError as error:
        return Line("predictions", where, stale=before.num_rows, why=(str(error),))
    keys = _run_keys(workspace, run)
    if not keys:
        return Line("predictions", where, current=before.num_rows, why=("the run does not exist any more",))
    command = _command(workspace, run, record)
    if not record.finished:
        return Line(
            "predictions", where, missing=before.num_rows, why=("it was not finished",), command=command
        )
    try:
        now = read_sources(workspace, record.sources).clips
        line = _compared(place, where, record, before, now, command)
    except EmiRayError as error:
        why = f"it cannot be compared: {error}"
        line = Line("predictions", where, current=before.num_rows, why=(why,))
    # The features are current, but the model may be another one by now.
    if keys == record.run_keys and run not in stale_runs:
        return line
    why = "the run was trained again since" if keys != record.run_keys else "the run is stale"
    return Line("predictions", where, stale=before.num_rows, why=(why, *line.why), command=command)


def _compared(
    place: Workspace, where: str, record: Record, before: pa.Table, now: pa.Table, command: str
) -> Line:
    """Compare the clips that the sources contain now with those whose features were extracted."""
    changed: dict[str, str] = {}
    todo: set[str] = set()
    for each in record.rounds:
        pipeline = plan_pipeline(place, each.config, each.modalities)
        work = plan_work(place, now, pipeline.specs, pipeline.transcriber)
        todo.update(work.table["clip_id"].to_pylist())
        for modality in work.by_modality.values():
            changed |= modality.features.changed
    gone = set(before["clip_id"].to_pylist()) - set(now["clip_id"].to_pylist())
    new = todo - set(changed)
    why = [f"{count} stale: {reason}" for reason, count in Counter(changed.values()).items()]
    if gone:
        why.append(f"{len(gone)} stale: {sorted(gone)[0]} is no longer among the clips")
    stale = len(changed) + len(gone)
    return Line(
        "predictions",
        where,
        current=now.num_rows - len(todo),
        stale=stale,
        missing=len(new),
        why=tuple(why),
        command=command if todo or gone else None,
    )


def _command(workspace: Workspace, run: str, record: Record) -> str:
    written = record.written
    words = [f"emi-ray predict -w {workspace.quoted} {run} --clips {shlex.join(record.sources)}"]
    words.append(f"--to {shlex.quote(written.to) if written else 'FILE'}")
    if written and written.form != "table":
        words.append(f"--form {written.form}")
    if written and written.id_width is not None:
        words.append(f"--id-width {written.id_width}")
    return " ".join(words)


def _run_keys(workspace: Workspace, run: str) -> tuple[str, ...]:
    """Return the key of a run's model, or those of an ensemble's members in order; empty if there is no run."""
    folder = f"runs/{run}"
    if workspace.exists(f"{folder}/{ENSEMBLE}"):
        return tuple(member["run_key"] for member in workspace.read_json(f"{folder}/{ENSEMBLE}")["members"])
    path = f"{folder}/{DESCRIPTION}"
    return (workspace.read_json(path)["run_key"],) if workspace.exists(path) else ()
