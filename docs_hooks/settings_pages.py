"""Settings as Markdown tables, read from the pydantic models: name, type, default, bounds, description."""

import types
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from markdown_text import cell, code, table
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

_NAMES = {str: "text", int: "integer", float: "number", bool: "true or false", type(None): "null", Any: "any"}
_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "min_length": "length ≥", "max_length": "length ≤"}


def settings(model: type[BaseModel]) -> str:
    """One row a field. A field that is a section of its own names it."""
    rows = [_row(name, field) for name, field in model.model_fields.items()]
    return table(["setting", "type", "default", "bounds", "meaning"], rows)


def _row(name: str, field: FieldInfo) -> list[str]:
    bounds = [
        f"{sign} {getattr(each, limit):g}"
        for each in field.metadata
        for limit, sign in _BOUNDS.items()
        if getattr(each, limit, None) is not None
    ]
    return [
        code(name),
        _type(field.annotation),
        _default(field),
        ", ".join(bounds),
        cell(field.description or ""),
    ]


def _type(annotation: Any) -> str:
    if annotation in _NAMES:
        return _NAMES[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0])
    if origin is Literal:
        return " or ".join(code(str(each)) for each in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_type(each) for each in arguments)
    if origin in (list, tuple, set, frozenset):
        return "list of " + _type(arguments[0])
    if origin is dict:
        return f"mapping of {_type(arguments[0])} to {_type(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel | Enum):
        return code(annotation.__name__)
    return cell(str(annotation))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default_factory() if field.default_factory else field.default  # type: ignore[call-arg]
    if value is PydanticUndefined:
        return ""
    if isinstance(value, BaseModel):
        return "see below"
    if value is None or isinstance(value, bool):
        return code(str(value).lower().replace("none", "null"))
    if isinstance(value, dict) and any(isinstance(each, BaseModel) for each in value.values()):
        return code(", ".join(f"{key}: {getattr(each, 'name', each)}" for key, each in value.items()))
    if isinstance(value, tuple):
        value = list(value)
    return code(str(value)) if value != "" else ""
