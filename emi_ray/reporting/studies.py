"""Hyper-parameter searches as plain data, from ``studies/<name>/trials.json`` and ``result.json``."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, json_to_distribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from emi_ray.workspace import Workspace

_FEWEST_FOR_IMPORTANCE = 6


@dataclass(frozen=True)
class Range:
    """The range of a parameter: ``choices``, or an interval if there are none; ``log`` for a logarithmic scale."""

    choices: tuple[Any, ...]
    log: bool


@dataclass(frozen=True)
class StudyTrial:
    """One trial; ``values`` has the score and, with two objectives, the cost; it is empty without a score."""

    number: int
    state: str
    values: tuple[float, ...]
    parameters: Mapping[str, Any]
    is_start: bool

    @property
    def score(self) -> float:
        """The score; NaN without one."""
        return self.values[0] if self.values else math.nan


@dataclass(frozen=True)
class Study:
    """One search; ``result`` is empty until the best trial has been selected and evaluated."""

    name: str
    recipe: str
    metric: str
    minimise: str | None
    directions: tuple[str, ...]
    distributions: Mapping[str, str]
    start: Mapping[str, Any]
    trials: Sequence[StudyTrial]
    result: Mapping[str, Any]

    @property
    def maximise(self) -> bool:
        return self.directions[0] == "maximize"

    @property
    def complete(self) -> list[StudyTrial]:
        return [trial for trial in self.trials if trial.state == "complete"]

    @property
    def best(self) -> StudyTrial | None:
        """The selected trial; before the selection, the trial with the best score."""
        if self.result:
            number = self.result["confirmed"][0]["number"]
            return next((trial for trial in self.trials if trial.number == number), None)
        sign = 1 if self.maximise else -1
        return max(self.complete, key=lambda trial: sign * trial.values[0], default=None)

    @property
    def ranges(self) -> dict[str, Range]:
        """The range of each parameter."""
        return {name: _range(text) for name, text in self.distributions.items()}

    def importances(self) -> dict[str, float]:
        """Compute the share of the score's variance that each parameter explains (fANOVA, Hutter et al. 2014).

        The result is empty if there are too few trials or all scores are equal.
        """
        scores = [trial.values[0] for trial in self.complete]
        if len(scores) < _FEWEST_FOR_IMPORTANCE or math.isclose(min(scores), max(scores)):
            return {}
        direction = StudyDirection.MAXIMIZE if self.maximise else StudyDirection.MINIMIZE
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        held = optuna.create_study(direction=direction)
        for trial in self.complete:
            ranges = {name: json_to_distribution(self.distributions[name]) for name in trial.parameters}
            held.add_trial(
                create_trial(
                    state=TrialState.COMPLETE,
                    value=trial.values[0],
                    params=dict(trial.parameters),
                    distributions=ranges,
                )
            )
        return get_param_importances(held, evaluator=FanovaImportanceEvaluator(seed=0))


def read_studies(workspace: Workspace) -> list[Study]:
    """Read all searches of a workspace that have trials, sorted by name."""
    names = [name for name in workspace.folders("studies") if workspace.exists(f"studies/{name}/trials.json")]
    studies = [_read(workspace, name) for name in names]
    return [study for study in studies if study.trials]


def _read(workspace: Workspace, name: str) -> Study:
    record = workspace.read_json(f"studies/{name}/trials.json")
    result = f"studies/{name}/result.json"
    return Study(
        name=name,
        recipe=record["recipe"],
        metric=record["metric"],
        minimise=record["minimise"],
        directions=tuple(record["directions"]),
        distributions=record["distributions"],
        start=record["start"],
        trials=[
            StudyTrial(
                number=row["number"],
                state=row["state"],
                values=tuple(row["values"] or ()),
                parameters=row["parameters"],
                is_start=row["is_start"],
            )
            for row in record["trials"]
        ],
        result=workspace.read_json(result) if workspace.exists(result) else {},
    )


def _range(text: str) -> Range:
    found = json_to_distribution(text)
    if isinstance(found, CategoricalDistribution):
        return Range(tuple(found.choices), False)
    return Range((), bool(json.loads(text)["attributes"].get("log")))
