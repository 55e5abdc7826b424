"""Logging of trials to MLflow. MLflow is optional and is imported only if it is used."""

import logging
from collections.abc import Callable
from typing import Any

from optuna.trial import FrozenTrial

from emi_ray.errors import UserError
from emi_ray.tuning.study import TuningStudy, kind_of

logger = logging.getLogger(__name__)

_TAG = "emi_ray.trial"
_LOGGED = ("complete", "pruned", "failed")


def mlflow_logger(uri: str, experiment: str) -> Callable[[TuningStudy], None]:
    """Return a function that logs those finished trials of a study that are not logged yet.

    Args:
        uri: URI of a tracking server, or of a database such as ``sqlite:///mlflow.db``.
        experiment: name of the MLflow experiment. Its runs are tagged with the number of their trial, so that no
            trial is logged twice.

    Raises:
        UserError: MLflow is not installed, or the server does not answer.
    """
    try:
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
    except ModuleNotFoundError:
        raise UserError("--mlflow needs MLflow, which is not installed: pip install mlflow-skinny") from None
    try:
        client = MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(experiment)
        identity = found.experiment_id if found else client.create_experiment(experiment)
        logged = {int(run.data.tags[_TAG]) for run in _runs(client, identity) if _TAG in run.data.tags}
    except MlflowException as error:
        raise UserError(f"--mlflow {uri}: {error}") from None

    def log(study: TuningStudy) -> None:
        for trial in study.optuna.get_trials(deepcopy=False):
            if kind_of(trial) not in _LOGGED or trial.number in logged:
                continue
            try:
                _log_trial(client, identity, study, trial)
            except MlflowException as error:
                logger.warning("MLflow refused trial %d, which will be sent again: %s", trial.number, error)
                return
            logged.add(trial.number)

    return log


def _runs(client: Any, experiment_id: str) -> list[Any]:
    runs: list[Any] = []
    token: str | None = None
    while True:
        page = client.search_runs([experiment_id], page_token=token)
        runs += page
        token = page.token
        if not token:
            return runs


def _log_trial(client: Any, experiment_id: str, study: TuningStudy, trial: FrozenTrial) -> None:
    started = int(trial.datetime_start.timestamp() * 1000) if trial.datetime_start else None
    ended = int(trial.datetime_complete.timestamp() * 1000) if trial.datetime_complete else None
    tags = {
        "mlflow.runName": f"{study.name} {trial.number}",
        "state": kind_of(trial),
    }
    run = client.create_run(experiment_id, start_time=started, tags=tags).info.run_id
    for name, value in trial.params.items():
        client.log_param(run, name.replace("*", "every"), value)
    for step, value in trial.intermediate_values.items():
        client.log_metric(run, f"{study.settings.metric}_so_far", value, step=step)
    names = [study.settings.metric, study.settings.minimise]
    for objective, value in zip(names, trial.values or [], strict=False):
        client.log_metric(run, str(objective), value)
    status = "FAILED" if kind_of(trial) == "failed" else "FINISHED"
    client.set_terminated(run, status, end_time=ended)
    client.set_tag(run, _TAG, str(trial.number))  # written last, so that a tagged run is complete
