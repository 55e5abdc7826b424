"""The files of a study, ``studies/<name>/``: its trials and its result.

study.json      the settings of the study (see :mod:`emi_ray.tuning.settings`)
trials.json     the trials as plain data, :class:`Study`
best.yaml       the selected recipe
result.json     the comparison of the selected recipe with the original settings, :class:`StudyResult`
"""

import math
from statistics import fmean
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from emi_ray.metrics import lower_is_better
from emi_ray.workspace import Workspace

STUDY_SETTINGS = "study.json"
TRIALS = "trials.json"
BEST = "best.yaml"
RESULT = "result.json"

Value = str | int | float | bool | None
"""A value of a hyper-parameter."""


def study_folder(study: str) -> str:
    """Return the folder of a study, relative to the workspace."""
    return f"studies/{study}"


class _FileContent(BaseModel):
    """Base of the content of a file. Keys that are not read are ignored, for example derived ones."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class ConfirmedTrial(_FileContent):
    """A trial on the tuning split: its score in the search, its scores with other seeds, and their mean."""

    number: int
    tuned: float
    confirmed: float
    scores: tuple[float, ...] = ()


class ReportedScores(_FileContent):
    """Scores of a recipe on the reporting split, one per seed."""

    recipe: str
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        return fmean(self.scores)


class FrontPoint(_FileContent):
    """A trial on the Pareto front of a search with two objectives: no other trial is better in both."""

    number: int
    values: tuple[float, ...]
    parameters: dict[str, Value]


class StudyResult(_FileContent):
    """The content of ``result.json``: the best trial against the original settings (the start).

    Attributes:
        finished: number of trials that the best one was selected from.
        confirm: number of best trials that were to be retrained.
        confirmed: the retrained trials, the selected one first.
        start: the trial with the original settings; None if it is not complete.
        front: the Pareto front of a search with two objectives.
    """

    metric: str
    finished: int
    confirm: int = 3
    seeds: tuple[int, ...]
    confirmed: tuple[ConfirmedTrial, ...]
    start: ConfirmedTrial | None
    best_reported: ReportedScores
    start_reported: ReportedScores
    parameters: dict[str, Value]
    start_parameters: dict[str, Value]
    front: tuple[FrontPoint, ...] = ()

    @property
    def best(self) -> ConfirmedTrial:
        return self.confirmed[0]

    @property
    def gain(self) -> float:
        """Gain of the tuned recipe on the reporting split; negative if it is worse than the start."""
        return self._better(self.best_reported.mean, self.start_reported.mean)

    @property
    def optimism(self) -> float:
        """Score of the best trial in the search minus its score on the reporting split (reversed for errors)."""
        return self._better(self.best.tuned, self.best_reported.mean)

    @property
    def optimism_of_start(self) -> float | None:
        """The same for the start, which was not selected by its score: the difference between the two splits."""
        if self.start is None:
            return None
        return self._better(self.start.tuned, self.start_reported.mean)

    def _better(self, score: float, other: float) -> float:
        return other - score if lower_is_better(self.metric) else score - other


class StudyTrial(_FileContent):
    """One trial.

    Attributes:
        state: ``complete``, ``pruned``, ``failed``, ``lost`` or ``running``.
        values: the score and, with two objectives, the cost; None without a score.
        parameters: values of the hyper-parameters, by the path of the setting.
        steps: intermediate scores by step.
        seconds: duration; None while the trial runs.
        is_start: whether it is the trial with the original settings.
        notes: further values that are stored with the trial.
    """

    number: int
    state: str
    values: tuple[float, ...] | None
    parameters: dict[str, Any]
    steps: dict[str, float]
    seconds: float | None
    is_start: bool
    notes: dict[str, Any]

    @property
    def score(self) -> float:
        """The score; NaN without one."""
        return self.values[0] if self.values else math.nan

    @property
    def cost(self) -> float:
        """The second objective of a search with two; NaN without one."""
        return self.values[1] if self.values and len(self.values) > 1 else math.nan


class Study(_FileContent):
    """The content of ``trials.json``.

    Attributes:
        name: the name of the study.
        recipe: the name of the recipe that the search started from.
        metric: the score that is optimised.
        minimise: second objective, or None.
        directions: ``maximize`` or ``minimize`` for each objective.
        distributions: Optuna's description of the range of each hyper-parameter, in JSON.
        start: the recipe's original values of the hyper-parameters.
    """

    name: str = Field(alias="study")
    recipe: str
    metric: str
    minimise: str | None
    directions: tuple[str, ...]
    distributions: dict[str, str]
    start: dict[str, Any]
    trials: tuple[StudyTrial, ...]

    @property
    def maximise(self) -> bool:
        return self.directions[0] == "maximize"

    @property
    def complete(self) -> list[StudyTrial]:
        return [trial for trial in self.trials if trial.state == "complete"]


def read_study_names(workspace: Workspace) -> list[str]:
    """Return the names of all studies that have stored trials."""
    return [
        name for name in workspace.folders("studies") if workspace.exists(f"{study_folder(name)}/{TRIALS}")
    ]


def read_study(workspace: Workspace, study: str) -> Study:
    """Read ``trials.json`` of a study."""
    return Study.model_validate(workspace.read_json(f"{study_folder(study)}/{TRIALS}"))


def write_study(workspace: Workspace, study: Study) -> None:
    """Write ``trials.json`` of a study."""
    workspace.write_json(f"{study_folder(study.name)}/{TRIALS}", study.model_dump(by_alias=True))


def read_study_result(workspace: Workspace, study: str) -> StudyResult | None:
    """Read ``result.json`` of a study; None if it does not exist yet."""
    path = f"{study_folder(study)}/{RESULT}"
    return StudyResult.model_validate(workspace.read_json(path)) if workspace.exists(path) else None


def write_study_result(workspace: Workspace, study: str, result: StudyResult) -> None:
    """Write ``result.json`` of a study, with the gain and the optimism for other programs."""
    derived = {
        "gain": result.gain,
        "optimism": result.optimism,
        "optimism_of_start": result.optimism_of_start,
    }
    workspace.write_json(f"{study_folder(study)}/{RESULT}", result.model_dump(mode="json") | derived)
