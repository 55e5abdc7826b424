"""Write the record of a run, ``extractions/<start>.json`` in the workspace."""

import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import ray

from emi_ray.config import WorkspaceConfig
from emi_ray.extraction.pipeline import Pipeline
from emi_ray.extraction.summary import ActorSummary, ExtractionSummary
from emi_ray.runtime import CORES
from emi_ray.time_limit import within
from emi_ray.workspace import EXTRACTIONS, Workspace

PACKAGES = ("emi-ray", "ray", "torch", "transformers", "numpy", "pyarrow", "av", "opencv-python-headless")


DONE = "done"

KEEP_EVERY_S = 30.0
"""Time between two writes of the record during a run."""

_LAST_WORDS_S = 10.0
"""Time limit for writing the record during a run, and after one that failed, perhaps for want of the storage."""


class RunRecord:
    """The record of one run. It is written when the run begins, at intervals with ``ended`` null, and at the end."""

    def __init__(self, workspace: Workspace, config: WorkspaceConfig, pipeline: Pipeline) -> None:
        self._workspace = workspace
        self._config = config
        self._pipeline = pipeline
        started = datetime.now(UTC)
        self._started = started.isoformat(timespec="seconds")
        self._path = f"{EXTRACTIONS}/{started:%Y%m%dT%H%M%S.%f}"[:-3] + "Z.json"
        self._nodes: dict[str, dict[str, Any]] = {}
        self._written_at = time.monotonic()

    def write(self, summary: ExtractionSummary, ended: str | None = None) -> None:
        """Write the record.

        Args:
            ended: :data:`DONE`, or the reason why the run ended early; None while it is running.

        Raises:
            OSError: the workspace cannot be written.
        """
        # Nodes that joined during the run are listed too. After a failure Ray may not answer.
        if ended in (None, DONE):
            self._nodes |= {node["NodeID"]: _node(node) for node in ray.nodes() if node["Alive"]}
        self._workspace.write_json(self._path, self._told(summary, ended))

    def keep(self, summary: ExtractionSummary) -> None:
        """Write the record if it is older than :data:`KEEP_EVERY_S`, in case the run is killed.

        Errors are ignored.
        """
        if time.monotonic() - self._written_at >= KEEP_EVERY_S:
            self._written_at = time.monotonic()
            with suppress(Exception):
                within(_LAST_WORDS_S, lambda: self.write(summary))

    def end(self, summary: ExtractionSummary, ended: str) -> None:
        """Write the record for the last time.

        If the run failed, an error while writing is ignored: the user must see the cause of the failure instead.
        """
        if ended == DONE:
            self.write(summary, ended)
            return
        with suppress(Exception):
            within(_LAST_WORDS_S, lambda: self.write(summary, ended))

    def _told(self, summary: ExtractionSummary, ended: str | None) -> dict[str, Any]:
        return {
            "started": self._started,
            "seconds": round(summary.seconds, 3),
            "ended": ended,
            "clips": summary.clips,
            "already_done": summary.already_done,
            "clips_per_s": round(summary.clips_per_s, 3),
            "bottleneck": summary.bottleneck,
            "passes": summary.passes,
            "retries": _restarts(summary),
            "nodes": [*self._nodes.values()],
            "nodes_lost": summary.nodes_lost,
            "notes": summary.notes,
            "stages": {name: _stage(summary, name) for name in summary.stages},
            "fingerprints": {m: spec.fingerprint for m, spec in self._pipeline.specs.items()},
            "extractors": {m: spec.identity for m, spec in self._pipeline.specs.items()},
            "versions": _versions(),
            "configuration": self._config.model_dump(mode="json"),
        }


def _stage(summary: ExtractionSummary, name: str) -> dict[str, Any]:
    stage = summary.stages[name]
    pool = summary.pools.get(name)
    return {
        "ok": stage.ok,
        "missing": stage.missing,
        "failed": stage.failed,
        "failures": dict(stage.reasons),
        "remarks": dict(stage.remarks),
        "busy_s": round(stage.seconds, 3),
        "busy_share": round(summary.busy(name), 4),
        "media_s": round(stage.media_s, 3) or None,
        "real_time_factor": summary.real_time_factor(name),
        "share_of_bare_model": summary.share_of_bare_speed(name),
        "pool": vars(pool) if pool else None,
        "actors": [_actor(actor) for actor in stage.actors.values()],
    }


def _restarts(summary: ExtractionSummary) -> int:
    """Return how often actors were restarted. An actor that runs several stages counts once."""
    restarts: dict[str, int] = {}
    for stage in summary.stages.values():
        for owner, actor in stage.actors.items():
            restarts[owner] = max(restarts.get(owner, 0), actor.restarts)
    return sum(restarts.values())


def _actor(actor: ActorSummary) -> dict[str, Any]:
    return {
        "node": actor.node,
        "gpus": list(actor.gpus),
        "clips": actor.clips,
        "busy_s": round(actor.busy_s, 3),
        "restarts": actor.restarts,
        "pids": sorted(actor.pids),
    }


def _node(node: Mapping[str, Any]) -> dict[str, Any]:
    resources = node["Resources"]
    return {
        "address": node["NodeManagerAddress"],
        "host": node["NodeManagerHostname"],
        "cpus": resources.get(CORES, resources.get("CPU", 0.0)),
        "gpus": resources.get("GPU", 0.0),
    }


def _versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions
