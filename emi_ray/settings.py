"""Read, override, validate and write settings; the base class of all settings, and YAML.

The error for an invalid field is one sentence with the file, the field, its value and the permitted values.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from emi_ray.errors import UserError, choices

AnySettings = TypeVar("AnySettings", bound=BaseModel)


class Settings(BaseModel):
    """Base class of all settings: immutable, and unknown keys are errors.

    Examples:
        >>> class GazeSettings(emi_ray.Settings):
        ...     threshold: float = 0.5
        >>> GazeSettings(threshold=0.25)
        GazeSettings(threshold=0.25)
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


@dataclass(frozen=True)
class Override:
    """A value of one setting that replaces another: the path ``section.key`` and the value."""

    path: str
    value: Any

    def __str__(self) -> str:
        return f"{self.path}={self.value}"


def validate(
    model: type[AnySettings], values: Mapping[str, Any], where: str, overrides: Sequence[str | Override] = ()
) -> AnySettings:
    """Validate ``values`` against ``model``, after ``section.key=value`` overrides.

    Args:
        where: the file or option of the values, for messages. If only an override is wrong, the message says so.

    Raises:
        UserError: a field is invalid; the message has a line for each, with its value and the permitted values.
    """
    try:
        return model.model_validate(apply_overrides(values, overrides))
    except ValidationError as error:
        if overrides and _is_valid(model, values):
            where = f"override of {where}"
        lines = [_explain(model, problem, where) for problem in error.errors()]
        raise UserError("\n".join(lines)) from None


def read_yaml(text: str, where: str) -> dict[str, Any]:
    """Parse a YAML mapping. Numbers like ``1e-4``, which are text in YAML 1.1, are read as numbers.

    Raises:
        UserError: the text is not valid YAML, or not a mapping.
    """
    try:
        values = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{where} is not valid YAML: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{where} must contain a mapping of settings, not {type(values).__name__}.")
    return values


def apply_overrides(values: Mapping[str, Any], overrides: Sequence[str | Override]) -> dict[str, Any]:
    """Set values in nested ``values``. An override is text, see :func:`parse_override`, or already parsed.

    Raises:
        UserError: an override cannot be parsed, or a part of its path is not a section.
    """
    # The copy is nested, so that the caller's mappings stay as they are.
    result: dict[str, Any] = _copy(values)
    for override in overrides:
        parsed = parse_override(override) if isinstance(override, str) else override
        *sections, key = parsed.path.split(".")
        place = result
        for section in sections:
            # A missing section, or one that a file sets to null, becomes a mapping.
            if place.get(section) is None:
                place[section] = {}
            place = place[section]
            if not isinstance(place, dict):
                raise UserError(f"'{override}': '{section}' is a value, not a section.")
        place[key] = parsed.value
    return result


def parse_override(text: str) -> Override:
    """Parse ``section.key=value``. The value is parsed as YAML (``true``, ``3``, ``[1, 2]``).

    Raises:
        UserError: there is no ``=``, or the value is not valid YAML.
    """
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise UserError(f"'{text}' is not a setting: write section.key=value, for example training.epochs=3.")
    try:
        return Override(path, yaml.load(value, Loader=_Loader))
    except yaml.YAMLError:
        raise UserError(f"'{text}': the value '{value}' is not valid YAML.") from None


def path_of(override: str | Override) -> str:
    """Return the path of the setting that an override sets."""
    return override.partition("=")[0] if isinstance(override, str) else override.path


def dump_yaml(settings: BaseModel) -> str:
    """Return settings as YAML, in the order of their declaration."""
    values = settings.model_dump(mode="json")
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 with the float syntax of YAML 1.2."""


# YAML 1.1 requires a dot and a sign of the exponent: 1.0e-4 but not 1e-4.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def _copy(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in values.items()}


def _is_valid(model: type[BaseModel], values: Mapping[str, Any]) -> bool:
    try:
        model.model_validate(values)
    except ValidationError:
        return False
    return True


def _explain(model: type[BaseModel], problem: Any, where: str) -> str:
    location = [str(part) for part in problem["loc"]]
    field = ".".join(location)
    if problem["type"] == "extra_forbidden":
        known = _fields_at(model, location[:-1])
        return f"{where}: unknown setting '{field}': {choices(location[-1], known)}"
    if location[-1:] == ["[key]"]:
        known = re.findall(r"'([^']+)'", problem["msg"])
        return f"{where}: unknown setting '{'.'.join(location[:-1])}': {choices(problem['input'], known)}"
    return f"{where}: {field} = {problem['input']!r}: {problem['msg']}."


def _fields_at(model: Any, path: Sequence[str]) -> list[str]:
    """Return the field names of the settings at ``path`` below ``model``."""
    for part in path:
        annotation = (
            model.model_fields[part].annotation
            if _is_settings(model) and part in model.model_fields
            else None
        )
        # Of `dict[str, X]`, `tuple[X, ...]` or `X | None`, the settings are X.
        arguments = [a for a in getattr(annotation, "__args__", ()) if _is_settings(a)]
        if _is_settings(annotation):
            model = annotation
        elif arguments:
            model = arguments[-1]
    return sorted(model.model_fields) if _is_settings(model) else []


def _is_settings(candidate: Any) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, BaseModel)
