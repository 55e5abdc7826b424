"""The section on extraction runs, from their records in ``extractions/``."""

from collections.abc import Mapping, Sequence
from typing import Any

from emi_ray.reporting.corpus_section import TextTable
from emi_ray.reporting.formatting import grouped
from emi_ray.workspace import EXTRACTIONS, Workspace

MOST_RUNS = 10
LONGEST_REASON = 120


def build_extraction_tables(workspace: Workspace) -> list[TextTable]:
    """Build tables of the latest runs, and of the stages of the last run that processed clips; empty without runs."""
    paths = [path for path in workspace.files(EXTRACTIONS) if path.endswith(".json")]
    # Names begin with the time of the start, so the last paths are the latest runs.
    records = [workspace.read_json(path) for path in paths[-MOST_RUNS:]][::-1]
    if not records:
        return []
    left_out = len(paths) - len(records)
    note = f"{left_out} earlier runs are not listed." if left_out else ""
    tables = [TextTable("Extraction runs", _RUN, [_run(record) for record in records], note)]
    # A run that found nothing to do has no stages.
    latest = next((record for record in records if record["stages"]), None)
    if latest:
        rows = [_stage(name, stage) for name, stage in latest["stages"].items()]
        tables.append(TextTable(f"Stages of the run of {latest['started']}", _STAGE, rows, _STAGE_NOTE))
    return tables


_RUN = ("started", "clips", "seconds", "clips/s", "restarts of actors", "nodes", "nodes lost", "ended")
_STAGE = (
    "stage",
    "ok",
    "missing",
    "failed",
    "actors",
    "GPUs",
    "busy",
    "real-time factor",
    "% of model alone",
)
_STAGE_NOTE = (
    "Real-time factor: seconds of computing per second of media. % of model alone: speed of the stage relative to "
    "its model without the pipeline. A dash means that the number does not apply."
)


def _run(record: Mapping[str, Any]) -> Sequence[str]:
    return [
        record["started"],
        grouped(record["clips"]),
        f"{record['seconds']:.0f}",
        f"{record['clips_per_s']:.1f}",
        grouped(record["retries"]),
        grouped(len(record["nodes"])),
        grouped(len(record["nodes_lost"])),
        (record["ended"] or "not ended, or killed")[:LONGEST_REASON],
    ]


def _stage(name: str, stage: Mapping[str, Any]) -> Sequence[str]:
    # Several actors may share a GPU, and each node counts its GPUs from 0.
    gpus = {(actor["node"], gpu) for actor in stage["actors"] for gpu in actor["gpus"]}
    return [
        name,
        grouped(stage["ok"]),
        grouped(stage["missing"]),
        grouped(stage["failed"]),
        grouped(len(stage["actors"])),
        grouped(len(gpus)) if gpus else "–",
        f"{stage['busy_share']:.0%}",
        _number(stage["real_time_factor"], ".4f"),
        _number(stage["share_of_bare_model"], ".0%"),
    ]


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
