"""Search spaces: YAML files with recipe settings and their ranges.

    title: The head and how it treats the encoders
    recipes: [f1, f2]
    parameters:
      fusion.dropout: {uniform: [0.1, 0.7]}
      fusion.encoder_lr_ratio: {loguniform: [0.005, 0.5]}
      encoders.*.hidden: {choice: [128, 256, 384]}
      encoders.audio.recurrent: {choice: [null, gru]}
      encoders.audio.recurrent_hidden: {choice: [64, 128], when: {encoders.audio.recurrent: gru}}

A name is the path of a setting, as in ``emi-ray train``; ``*`` means every encoder of the recipe. A parameter whose
``when`` does not hold keeps the recipe's value.
"""

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import BaseModel, Field, model_validator

from emi_ray.errors import UserError
from emi_ray.recipe.schema import Recipe
from emi_ray.recipe.sections import StageOverrides
from emi_ray.results.studies import Value
from emi_ray.schema import MODALITIES
from emi_ray.settings import Override, Settings, read_yaml, validate

EVERY = "*"

_FIXED = ("name", "title", "paper")
"""Parts of a recipe that do not influence training."""
_NOT_COMPARED = ("split", "training.seed", "fusion.missing")
_NOT_COMPARED_OF_ENCODERS = ("features", "backbone", "backbone_config", "backbone_revision", "missing")
"""Settings that decide which clips and features are read. They must be the same for all trials of a study."""


class Parameter(Settings):
    """The range of one setting, and the condition under which it varies."""

    uniform: tuple[float, float] | None = None
    loguniform: tuple[float, float] | None = None
    integer: tuple[int, int] | None = Field(None, alias="int")
    quantised: tuple[float, float, float] | None = Field(None, description="lowest, highest, step")
    choice: tuple[Value, ...] | None = None
    when: dict[str, Value | tuple[Value, ...]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_sensible_range(self) -> "Parameter":
        kinds = ("uniform", "loguniform", "integer", "quantised", "choice")
        given = [name for name in kinds if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of uniform, loguniform, int, quantised, choice")
        bounds = getattr(self, given[0])
        if self.choice is not None:
            # repr tells 1, 1.0 and True apart, which are equal as elements of a set.
            if len(set(map(repr, self.choice))) < max(len(self.choice), 2):
                raise ValueError("a choice needs at least two different values")
        elif not bounds[0] < bounds[1]:
            raise ValueError(f"the low end {bounds[0]:g} must be below the high end {bounds[1]:g}")
        if self.loguniform is not None and bounds[0] <= 0:
            raise ValueError("a loguniform range must start above 0")
        if self.quantised is not None and not _divides(*self.quantised):
            raise ValueError("the range must be a multiple of the step")
        return self

    @property
    def distribution(self) -> BaseDistribution:
        """The range as a distribution of Optuna."""
        if self.choice is not None:
            return CategoricalDistribution(self.choice)
        if self.integer is not None:
            return IntDistribution(*self.integer)
        if self.loguniform is not None:
            return FloatDistribution(*self.loguniform, log=True)
        if self.uniform is not None:
            return FloatDistribution(*self.uniform)
        assert self.quantised is not None
        low, high, step = self.quantised
        # Whole numbers stay integers: a setting such as hidden refuses 128.0.
        if all(float(part).is_integer() for part in self.quantised):
            return IntDistribution(int(low), int(high), step=int(step))
        return FloatDistribution(low, high, step=step)

    @property
    def extremes(self) -> tuple[Value, ...]:
        """All choices, or both ends of the range."""
        found = self.distribution
        if isinstance(found, CategoricalDistribution):
            return tuple(found.choices)
        assert isinstance(found, FloatDistribution | IntDistribution)
        return (found.low, found.high)

    def contains(self, value: Any) -> bool:
        """Return whether a value is in the range."""
        found = self.distribution
        if isinstance(found, CategoricalDistribution):
            # The type matters, because True == 1.
            return any(value == each and type(value) is type(each) for each in found.choices)
        assert isinstance(found, FloatDistribution | IntDistribution)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if isinstance(found, IntDistribution) and value != int(value):
            return False
        return found.low <= value <= found.high and _divides(found.low, value, found.step or 0.0)

    def suggest(self, trial: optuna.trial.BaseTrial, name: str) -> Value:
        """Let a trial's sampler choose a value."""
        found = self.distribution
        if isinstance(found, CategoricalDistribution):
            chosen: Value = trial.suggest_categorical(name, found.choices)
            return chosen
        if isinstance(found, IntDistribution):
            return trial.suggest_int(name, found.low, found.high, step=found.step)
        assert isinstance(found, FloatDistribution)
        return trial.suggest_float(name, found.low, found.high, step=found.step, log=found.log)


class SearchSpace(Settings):
    """The parameters of a search by name, in the order in which they are chosen."""

    title: str = ""
    recipes: tuple[str, ...] = Field((), description="shipped recipes that it was written for")
    parameters: dict[str, Parameter] = Field(min_length=1)

    def suggest(self, trial: optuna.trial.BaseTrial) -> dict[str, Value]:
        """Let a trial choose the values of all parameters whose conditions hold."""
        values: dict[str, Value] = {}
        for name, parameter in self.parameters.items():
            # Conditions name parameters above, whose values are chosen already (see _check_names).
            if _applies(parameter, values):
                values[name] = parameter.suggest(trial, name)
        return values

    def own_values(self, recipe: Recipe) -> dict[str, Value]:
        """Return the recipe's original values of the parameters that apply and whose range contains the value."""
        values: dict[str, Value] = {}
        for name, parameter in self.parameters.items():
            own = value_of(recipe, name)
            if _applies(parameter, values) and parameter.contains(own):
                values[name] = own
        return values

    def outside(self, recipe: Recipe) -> list[str]:
        """Return the parameters that apply to the original settings, but whose range excludes the original value."""
        own = self.own_values(recipe)
        return [n for n, parameter in self.parameters.items() if n not in own and _applies(parameter, own)]


def load_space(path: Path) -> SearchSpace:
    """Read and check a search space.

    Raises:
        UserError: there is no such file, a name is not a setting of a recipe, or a range is invalid.
    """
    if not path.is_file():
        raise UserError(
            f"There is no search space {path}: give the path of a YAML file; search_spaces/ has examples."
        )
    space = validate(SearchSpace, read_yaml(path.read_text(), str(path)), str(path))
    _check_names(space, str(path))
    return space


def is_shared(name: str, parameter: Parameter, recipe: Recipe) -> bool:
    """Return whether a setting decides which data are read or scored, and must be the same for all trials."""
    if not name.startswith("encoders."):
        return name in _NOT_COMPARED
    _, modality, setting = name.split(".", 2)
    finetunes = bool(recipe.finetuned) if modality == EVERY else modality in recipe.finetuned
    return (
        setting in _NOT_COMPARED_OF_ENCODERS
        or (setting == "type" and (finetunes or "finetune" in (parameter.choice or ())))
        # Of a fine-tuned backbone, max_steps decides how much of the raw input is read.
        or (setting == "max_steps" and finetunes)
    )


def overrides(values: Mapping[str, Value], recipe: Recipe) -> list[Override]:
    """Return values as overrides for :func:`emi_ray.recipe.loading.load_recipe`."""
    return [Override(path, value) for name, value in values.items() for path in _expand(name, recipe)]


def value_of(recipe: Recipe, name: str) -> Any:
    """Return a recipe's value of a parameter; for ``encoders.*`` the common value of all encoders, or None."""
    found = [_value_at(recipe, path) for path in _expand(name, recipe)]
    return found[0] if found and all(each == found[0] for each in found) else None


def recipe_keys() -> list[str]:
    """Return the paths of all settings that a search space may name."""
    return sorted(path for path in _paths(Recipe, ()) if path.partition(".")[0] not in _FIXED)


def _paths(model: type[BaseModel], above: tuple[str, ...]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        place = (*above, name)
        below = list(_settings_within(field.annotation))
        if not below:
            yield ".".join(place)
        for inner in below:
            keys = (*MODALITIES, EVERY) if name == "encoders" else (None,)
            for key in keys:
                yield from _paths(inner, place if key is None else (*place, key))


def _value_at(recipe: Recipe, path: str) -> Any:
    place: Any = recipe
    for part in path.split("."):
        stage = place
        place = place.get(part) if isinstance(place, Mapping) else getattr(place, part, None)
    if place is None and isinstance(stage, StageOverrides) and part in StageOverrides.model_fields:
        return getattr(recipe.training_of(stage), part)
    return place


def _settings_within(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) is not None:
        for argument in get_args(annotation):
            yield from _settings_within(argument)


def _expand(name: str, recipe: Recipe) -> Sequence[str]:
    if f".{EVERY}." not in name:
        return [name]
    return [name.replace(EVERY, modality, 1) for modality in recipe.streams]


def _check_names(space: SearchSpace, where: str) -> None:
    known = recipe_keys()
    chosen: list[str] = []
    for name, parameter in space.parameters.items():
        if name not in known and _of_every_encoder(name) not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else "Write section.key, for example fusion.dropout."
            raise UserError(f"{where}: parameters.{name}: recipes have no setting '{name}': {hint}")
        for condition in parameter.when:
            if condition not in chosen:
                raise UserError(
                    f"{where}: parameters.{name}.when: '{condition}' is not a parameter above it. "
                    "Name a parameter that comes earlier in the file."
                )
        chosen.append(name)


def _of_every_encoder(name: str) -> str:
    """Return ``encoders.*.hidden`` for ``encoders.dinov2.hidden``, because recipes may give encoders any name.

    A recipe without such an encoder refuses the space later, see :func:`emi_ray.tuning.settings.check_space`.
    """
    section, _, rest = name.partition(".")
    _, _, setting = rest.partition(".")
    return f"encoders.{EVERY}.{setting}" if section == "encoders" else name


def _applies(parameter: Parameter, values: Mapping[str, Value]) -> bool:
    def holds(name: str, wanted: Value | tuple[Value, ...]) -> bool:
        allowed = wanted if isinstance(wanted, tuple) else (wanted,)
        return name in values and values[name] in allowed

    return all(holds(name, wanted) for name, wanted in parameter.when.items())


def _divides(low: float, high: float, step: float) -> bool:
    """Return whether ``high - low`` is a multiple of ``step``; always true for a step of 0."""
    if step == 0:
        return True
    return step > 0 and math.isclose((high - low) / step, round((high - low) / step), abs_tol=1e-9)
