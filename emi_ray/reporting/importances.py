"""The importance of the hyper-parameters of a search, and their ranges."""

import json
import math
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, json_to_distribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from emi_ray.results.studies import Study

_FEWEST_FOR_IMPORTANCE = 6


@dataclass(frozen=True)
class Range:
    """The range of a parameter: ``choices``, or an interval if there are none; ``log`` for a logarithmic scale."""

    choices: tuple[Any, ...]
    log: bool


def ranges_of(study: Study) -> dict[str, Range]:
    """Return the range of each parameter."""
    return {name: _range(text) for name, text in study.distributions.items()}


def importances_of(study: Study) -> dict[str, float]:
    """Compute the share of the score's variance that each parameter explains (fANOVA, Hutter et al. 2014).

    The result is empty if there are too few trials or all scores are equal.
    """
    scores = [trial.score for trial in study.complete]
    if len(scores) < _FEWEST_FOR_IMPORTANCE or math.isclose(min(scores), max(scores)):
        return {}
    direction = StudyDirection.MAXIMIZE if study.maximise else StudyDirection.MINIMIZE
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # The evaluator needs a study of Optuna; the report has only trials.json.
    in_memory = optuna.create_study(direction=direction)
    for trial in study.complete:
        # Only the parameters that apply: Optuna refuses a distribution without a value.
        ranges = {name: json_to_distribution(study.distributions[name]) for name in trial.parameters}
        in_memory.add_trial(
            create_trial(
                state=TrialState.COMPLETE,
                value=trial.score,
                params=dict(trial.parameters),
                distributions=ranges,
            )
        )
    # The evaluator is random; a fixed seed gives the same report each time.
    return get_param_importances(in_memory, evaluator=FanovaImportanceEvaluator(seed=0))


def _range(text: str) -> Range:
    found = json_to_distribution(text)
    if isinstance(found, CategoricalDistribution):
        return Range(tuple(found.choices), False)
    return Range((), bool(json.loads(text)["attributes"].get("log")))
