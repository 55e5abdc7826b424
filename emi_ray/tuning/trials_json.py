"""The trials of a study as plain data in ``studies/<name>/trials.json``, for the report and for other programs."""

from optuna.distributions import distribution_to_json
from optuna.trial import FrozenTrial

from emi_ray.results.studies import Study, StudyTrial, write_study
from emi_ray.tuning.study import RETRY, START, TuningStudy, kind_of
from emi_ray.workspace import Workspace


def write_trials_json(study: TuningStudy, workspace: Workspace) -> None:
    """Write the current state of all trials."""
    settings = study.settings
    trials = study.optuna.get_trials(deepcopy=False)
    distributions = {name: d for trial in trials for name, d in trial.distributions.items()}
    content = Study(
        study=study.name,
        recipe=settings.recipe.name,
        metric=settings.metric,
        minimise=settings.minimise,
        directions=tuple(settings.directions),
        distributions={name: distribution_to_json(each) for name, each in distributions.items()},
        start=settings.space.own_values(settings.recipe),
        trials=tuple(_as_plain(trial) for trial in trials if kind_of(trial)),
    )
    write_study(workspace, content)


def _as_plain(trial: FrozenTrial) -> StudyTrial:
    duration = trial.duration
    return StudyTrial(
        number=trial.number,
        state=kind_of(trial) or "",
        values=trial.values,
        parameters=trial.params,
        steps={str(step): value for step, value in trial.intermediate_values.items()},
        seconds=duration.total_seconds() if duration else None,
        is_start=START in trial.user_attrs,
        notes={k: v for k, v in trial.user_attrs.items() if k not in (START, RETRY)},
    )
