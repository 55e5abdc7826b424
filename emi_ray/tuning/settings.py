"""What a study is about: ``studies/<name>/study.json``. It may be continued only under the same."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import optuna
from pydantic import Field

from emi_ray.errors import UserError, choices
from emi_ray.metrics import BY_LABEL
from emi_ray.recipe import Recipe, load_recipe
from emi_ray.schema import Label, snake
from emi_ray.settings import Settings, validate
from emi_ray.training.transcripts import resolve_backbones
from emi_ray.tuning.search_space import Parameter, SearchSpace, Value, is_shared, overrides
from emi_ray.workspace import Workspace

Cost = Literal["parameters", "seconds"]
Direction = Literal["maximize", "minimize"]

HOLDOUT = 0.2

_SETTINGS = "emi_ray:settings"
_LOWER_IS_BETTER = ("val_mse", "val_mae")


def study_folder(study: str) -> str:
    """Where all of a study lies, relative to the workspace."""
    return f"studies/{study}"


@dataclass(frozen=True)
class RecipeSource:
    """A recipe that settings can still be laid over: a trial is ``emi-ray train`` with more overrides."""

    name_or_path: str
    overrides: tuple[str, ...]
    defaults: Mapping[str, Any]

    @cached_property
    def own(self) -> Recipe:
        """The recipe as it stands.

        Raises:
            UserError: there is no such recipe, or a setting is wrong.
        """
        return resolve_backbones(load_recipe(self.name_or_path, self.overrides, self.defaults))

    def load(self, values: Mapping[str, Value]) -> Recipe:
        """The recipe under these values of parameters.

        Raises:
            UserError: the recipe refuses a value, or has no such part.
        """
        changes = overrides(values, self.own)
        recipe = load_recipe(self.name_or_path, [*self.overrides, *changes], self.defaults)
        return resolve_backbones(recipe)


class StudySettings(Settings):
    """Everything that makes scores of two trials comparable.

    Attributes:
        recipe: resolved: where the search starts.
        data_key: hash of the recipe, its features, the clips and their labels, and of the version of the training
            code where that comes to other weights.
    """

    recipe: Recipe
    space: SearchSpace
    metric: str = "val_pearson"
    minimise: Cost | None = None
    folds: int = Field(1, ge=1, description="1: one part of train is held out")
    holdout: float = Field(HOLDOUT, gt=0, lt=1, description="share of train that is held out; 1 fold only")
    data_key: str

    @property
    def directions(self) -> list[Direction]:
        """One for each objective, as Optuna names them."""
        first: Direction = "minimize" if lower_is_better(self.metric) else "maximize"
        return [first] if self.minimise is None else [first, "minimize"]

    @property
    def num_steps(self) -> int:
        """Reports that a trial makes at most: an epoch of its last stage each, on the first fold."""
        stage = self.recipe.fusion or self.recipe.encoders[self.recipe.streams[0]]
        return self.recipe.training_of(stage).epochs


def lower_is_better(metric: str) -> bool:
    """Whether a metric is an error, and not a correlation."""
    return metric in _LOWER_IS_BETTER


def check_name(study: str) -> None:
    """Make sure that a study's name can be part of a recipe's name and of paths.

    Raises:
        UserError: it cannot.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", study):
        raise UserError(f"--study {study}: use small letters, digits, '.', '_' and '-'.")


def check_metric(metric: str, labels: Sequence[Label]) -> None:
    """Make sure that every trial will have such a score.

    Raises:
        UserError: there is none; names those that there are.
    """
    names = [f"val_{name}" for name in BY_LABEL]
    names += [f"val_pearson_{snake(label.name)}" for label in labels]
    if metric not in names:
        raise UserError(f"--metric {metric}: {choices(metric, names)}")


def _conditions(space: SearchSpace, parameter: Parameter) -> dict[str, Value]:
    """Values of other parameters under which a parameter applies."""
    values: dict[str, Value] = {}
    for name, wanted in parameter.when.items():
        values |= {**_conditions(space, space.parameters[name]), name: _first(wanted)}
    return values


def _first(wanted: Value | tuple[Value, ...]) -> Value:
    return wanted[0] if isinstance(wanted, tuple) else wanted


def check_space(source: RecipeSource, space: SearchSpace) -> None:
    """Make sure that the recipe takes every value that the space may propose.

    Raises:
        UserError: the recipe lacks a part, or refuses the end of a range or a choice; or trials could not differ
            in a setting.
    """
    for name, parameter in space.parameters.items():
        if is_shared(name, parameter, source.own):
            raise UserError(
                f"The search space's {name} decides which clips or features are read, and all trials share these: "
                f"take it out, and tune a recipe of each kind, as in emi-ray tune RECIPE {name}=VALUE."
            )
        for value in parameter.extremes:
            try:
                source.load({**_conditions(space, parameter), name: value})
            except UserError as error:
                raise UserError(f"The search space's {name} does not suit the recipe: {error}") from None


def claim_settings(workspace: Workspace, held: optuna.Study, settings: StudySettings) -> None:
    """Write the settings of a new study into the workspace, and into the study, for one database serves many
    workspaces; of one that exists, make sure that they are the same.

    Raises:
        UserError: the study was started under other settings.
    """
    study, path = held.study_name, f"{study_folder(held.study_name)}/study.json"
    values = settings.model_dump(mode="json", by_alias=True)
    if workspace.exists(path):
        _refuse_other(settings, read_settings(workspace, study), f"Study {study} in {workspace.root}")
    if (own := held.user_attrs.get(_SETTINGS)) is not None:
        where = f"Study {study} in its database"
        _refuse_other(settings, validate(StudySettings, json.loads(own), where), where)
    else:
        held.set_user_attr(_SETTINGS, json.dumps(values))
    if not workspace.exists(path):
        workspace.write_json(path, values)


def _refuse_other(settings: StudySettings, earlier: StudySettings, what: str) -> None:
    names = (name for name in StudySettings.model_fields if getattr(settings, name) != getattr(earlier, name))
    changed = ["set of clips, labels or features" if name == "data_key" else name for name in names]
    if changed:
        raise UserError(
            f"{what} was started with another {', '.join(changed)}, and its scores would not compare. "
            "Name another study with --study, or give what it was started with."
        )


def read_settings(workspace: Workspace, study: str) -> StudySettings:
    """The settings of a study.

    Raises:
        UserError: there is no such study.
    """
    path = f"{study_folder(study)}/study.json"
    if not workspace.exists(path):
        known = workspace.folders("studies")
        hint = choices(study, known) if known else "start one with emi-ray tune."
        raise UserError(f"There is no study '{study}' in {workspace.root}: {hint}")
    return validate(StudySettings, workspace.read_json(path), workspace.path(path))
