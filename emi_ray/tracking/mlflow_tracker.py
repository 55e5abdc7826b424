"""MLflow: the server that ``MLFLOW_TRACKING_URI`` names, or a database in the workspace."""

import logging
import os
import time
from collections.abc import Mapping
from typing import Any

from emi_ray.errors import UserError
from emi_ray.tracking.tracker import RunState, TrackedRun
from emi_ray.workspace import Workspace

EXPERIMENT = "emi_ray"
DATABASE = "tracking/mlflow.db"

_MAX_PARAMETERS = 100
"""Parameters that MLflow takes in one call."""

_LONGEST = 500
_STATUS: dict[RunState, str] = {
    "finished": "FINISHED",
    "pruned": "FINISHED",
    "failed": "FAILED",
    "interrupted": "KILLED",
}


class MlflowTracker:
    """One MLflow run for each run or trial, in the experiment ``MLFLOW_EXPERIMENT_NAME`` or ``emi_ray``.

    Settings are parameters. Scores are metrics named ``<stage>/<score>``, with the epoch as their step; the final
    scores have no stage.

    Raises:
        UserError: the workspace is behind a URI, which cannot hold a database, and no server is named.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._uri = os.environ.get("MLFLOW_TRACKING_URI") or self._database(workspace)
        self._ids: dict[str, str] = {}
        self._made: Any = None

    def _database(self, workspace: Workspace) -> str:
        if not workspace.is_local:
            raise UserError(
                f"tracking: mlflow needs a server, because {workspace.root} cannot hold a database: set "
                "MLFLOW_TRACKING_URI."
            )
        path = os.path.abspath(workspace.path(DATABASE))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return f"sqlite:///{path}"

    @property
    def _client(self) -> Any:
        # Connected on first use, in the tracker's thread: a slow server must not delay the start.
        if self._made is None:
            for name in ("alembic", "mlflow"):
                logging.getLogger(name).setLevel(logging.WARNING)  # each step of making a database is logged
            from mlflow.tracking import MlflowClient

            client = MlflowClient(tracking_uri=self._uri)
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
            found = client.get_experiment_by_name(name)
            self._experiment = found.experiment_id if found else client.create_experiment(name)
            self._made = client
        return self._made

    def begin(self, run: TrackedRun) -> None:
        from mlflow.entities import Param

        client = self._client
        tags = {"mlflow.runName": run.name, "group": run.group, **run.tags}
        self._ids[run.name] = identity = client.create_run(self._experiment, tags=tags).info.run_id
        parameters = [Param(name, str(value)[:_LONGEST]) for name, value in run.settings.items()]
        for first in range(0, len(parameters), _MAX_PARAMETERS):
            client.log_batch(identity, params=parameters[first : first + _MAX_PARAMETERS])

    def log(self, run: TrackedRun, stage: str, epoch: int, values: Mapping[str, float]) -> None:
        self._log_metrics(run, {f"{stage}/{name}": value for name, value in values.items()}, epoch)

    def end(self, run: TrackedRun, state: RunState, scores: Mapping[str, float]) -> None:
        self._log_metrics(run, scores, 0)
        self._client.set_tag(self._ids[run.name], "state", state)
        self._client.set_terminated(self._ids[run.name], _STATUS[state])
        del self._ids[run.name]  # not earlier: a failed call is repeated

    def close(self) -> None:
        """Nothing is open between calls."""

    def _log_metrics(self, run: TrackedRun, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        # MLflow takes milliseconds.
        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._ids[run.name], metrics=metrics)
