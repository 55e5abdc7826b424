"""The settings of a study, ``studies/<name>/study.json``. A study can only be continued with the same settings."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import optuna
from pydantic import Field

from emi_ray.errors import UserError, choices
from emi_ray.metrics import BY_LABEL, label_score, lower_is_better
from emi_ray.models.custom import resolve_custom, with_code_of
from emi_ray.recipe.loading import load_recipe
from emi_ray.recipe.schema import Recipe
from emi_ray.results.studies import STUDY_SETTINGS, Value, study_folder
from emi_ray.schema import Label
from emi_ray.settings import Settings, validate
from emi_ray.training.data.transcripts import resolve_backbones
from emi_ray.tuning.search_space import Parameter, SearchSpace, is_shared, overrides
from emi_ray.workspace import Workspace

Cost = Literal["parameters", "seconds"]
Direction = Literal["maximize", "minimize"]

HOLDOUT = 0.2

_SETTINGS = "emi_ray:settings"


@dataclass(frozen=True)
class RecipeSource:
    """A recipe to which overrides can be added: a trial is like ``emi-ray train`` with more overrides."""

    name_or_path: str
    overrides: tuple[str, ...]
    defaults: Mapping[str, Any]

    @cached_property
    def original(self) -> Recipe:
        """The recipe with its original settings.

        Raises:
            UserError: there is no such recipe, or a setting is invalid.
        """
        recipe = load_recipe(self.name_or_path, self.overrides, self.defaults)
        return resolve_custom(resolve_backbones(recipe))

    def load(self, values: Mapping[str, Value]) -> Recipe:
        """Load the recipe with the given values of the parameters.

        Raises:
            UserError: the recipe refuses a value, or has no such section.
        """
        changes = overrides(values, self.original)
        recipe = load_recipe(self.name_or_path, [*self.overrides, *changes], self.defaults)
        # A trial must run the code that the study began with, even if the file was edited since.
        return resolve_custom(with_code_of(resolve_backbones(recipe), self.original))


class StudySettings(Settings):
    """Everything that must be equal for the scores of two trials to be comparable.

    Attributes:
        recipe: the resolved recipe that the search starts from.
        space: the search space.
        metric: name of the score to optimise.
        minimise: second objective, or None.
        data_key: hash of the recipe, its features, the clips with their labels, and the version of the training
            algorithm.
    """

    recipe: Recipe
    space: SearchSpace
    metric: str = "val_pearson"
    minimise: Cost | None = None
    folds: int = Field(1, ge=1, description="cross-validation folds of train; 1 uses one held-out part")
    holdout: float = Field(HOLDOUT, gt=0, lt=1, description="with 1 fold: share of train that is held out")
    data_key: str

    @property
    def directions(self) -> list[Direction]:
        """The direction of each objective, as Optuna names it."""
        first: Direction = "minimize" if lower_is_better(self.metric) else "maximize"
        return [first] if self.minimise is None else [first, "minimize"]

    @property
    def num_steps(self) -> int:
        """Maximum number of reports of a trial: one for each epoch of its last stage on the first fold."""
        stage = self.recipe.fusion or self.recipe.encoders[self.recipe.streams[0]]
        return self.recipe.training_of(stage).epochs


def check_name(study: str) -> None:
    """Check that a study's name can be part of a recipe's name and of paths.

    Raises:
        UserError: the name has characters that are not allowed.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", study):
        raise UserError(f"--study {study}: use lower-case letters, digits, '.', '_' and '-'.")


def check_metric(metric: str, labels: Sequence[Label]) -> None:
    """Check that ``metric`` is the name of a score.

    Raises:
        UserError: it is not; the message lists the scores.
    """
    names = [f"val_{name}" for name in BY_LABEL]
    names += [label_score(label.name) for label in labels]
    if metric not in names:
        raise UserError(f"--metric {metric}: {choices(metric, names)}")


def _conditions(space: SearchSpace, parameter: Parameter) -> dict[str, Value]:
    """Return values of other parameters with which the conditions of a parameter hold."""
    values: dict[str, Value] = {}
    for name, wanted in parameter.when.items():
        values |= {**_conditions(space, space.parameters[name]), name: _first(wanted)}
    return values


def _first(wanted: Value | tuple[Value, ...]) -> Value:
    return wanted[0] if isinstance(wanted, tuple) else wanted


def check_space(source: RecipeSource, space: SearchSpace) -> None:
    """Check that the recipe accepts the values of the space: the ends of each range, and each choice.

    Raises:
        UserError: the recipe lacks a section or refuses a value, or all trials must share a setting of the space.
    """
    for name, parameter in space.parameters.items():
        if is_shared(name, parameter, source.original):
            raise UserError(
                f"The search space's {name} decides which clips or features are read, and these must be the same for "
                f"all trials. Remove it, and tune once for each value: emi-ray tune RECIPE {name}=VALUE."
            )
        for value in parameter.extremes:
            try:
                source.load({**_conditions(space, parameter), name: value})
            except UserError as error:
                raise UserError(f"The search space's {name} does not suit the recipe: {error}") from None


def claim_settings(workspace: Workspace, optuna_study: optuna.Study, settings: StudySettings) -> None:
    """Store the settings of a new study, or check that an existing study has the same settings.

    They are stored in the workspace and also in the study itself, because workspaces may share a database.

    Raises:
        UserError: the study was started with other settings.
    """
    study, path = optuna_study.study_name, f"{study_folder(optuna_study.study_name)}/{STUDY_SETTINGS}"
    values = settings.model_dump(mode="json", by_alias=True)
    if workspace.exists(path):
        _refuse_other(settings, read_settings(workspace, study), f"Study {study} in {workspace.root}")
    # Two workspaces with one database may use the same name for different studies.
    if (stored := optuna_study.user_attrs.get(_SETTINGS)) is not None:
        where = f"Study {study} in its database"
        _refuse_other(settings, validate(StudySettings, json.loads(stored), where), where)
    else:
        optuna_study.set_user_attr(_SETTINGS, json.dumps(values))
    if not workspace.exists(path):
        workspace.write_json(path, values)


def _refuse_other(settings: StudySettings, earlier: StudySettings, what: str) -> None:
    names = (name for name in StudySettings.model_fields if getattr(settings, name) != getattr(earlier, name))
    changed = ["set of clips, labels or features" if name == "data_key" else name for name in names]
    if changed:
        raise UserError(
            f"{what} was started with another {', '.join(changed)}, so scores of new trials would not be comparable. "
            "Name another study with --study, or use the original settings."
        )


def read_settings(workspace: Workspace, study: str) -> StudySettings:
    """Read the settings of a study.

    Raises:
        UserError: there is no such study.
    """
    path = f"{study_folder(study)}/{STUDY_SETTINGS}"
    if not workspace.exists(path):
        known = workspace.folders("studies")
        hint = choices(study, known) if known else "start one with emi-ray tune."
        raise UserError(f"There is no study '{study}' in {workspace.root}: {hint}")
    return validate(StudySettings, workspace.read_json(path), workspace.path(path))
