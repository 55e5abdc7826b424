"""The trials of a study as plain data in ``studies/<name>/trials.json``, for the report and for other programs."""

from typing import Any

from optuna.distributions import distribution_to_json
from optuna.trial import FrozenTrial

from emi_ray.tuning.settings import study_folder
from emi_ray.tuning.study import RETRY, START, TuningStudy, kind_of
from emi_ray.workspace import Workspace


def write_trials_json(study: TuningStudy, workspace: Workspace) -> None:
    """Write the current state of all trials."""
    settings = study.settings
    trials = study.optuna.get_trials(deepcopy=False)
    distributions = {name: d for trial in trials for name, d in trial.distributions.items()}
    record = {
        "study": study.name,
        "recipe": settings.recipe.name,
        "metric": settings.metric,
        "minimise": settings.minimise,
        "directions": settings.directions,
        "distributions": {name: distribution_to_json(each) for name, each in distributions.items()},
        "start": settings.space.own_values(settings.recipe),
        "trials": [_row(trial) for trial in trials if kind_of(trial)],
    }
    workspace.write_json(f"{study_folder(study.name)}/trials.json", record)


def _row(trial: FrozenTrial) -> dict[str, Any]:
    duration = trial.duration
    return {
        "number": trial.number,
        "state": kind_of(trial),
        "values": trial.values,
        "parameters": trial.params,
        "steps": {str(step): value for step, value in trial.intermediate_values.items()},
        "seconds": duration.total_seconds() if duration else None,
        "is_start": START in trial.user_attrs,
        "notes": {k: v for k, v in trial.user_attrs.items() if k not in (START, RETRY)},
    }
