"""Values of recipes that name code: types of encoders, and code of the user's own."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator

from emi_ray.custom_code import is_custom
from emi_ray.errors import choices

ENCODER_TYPES = ("mlp", "attention", "mean", "mean_std", "last", "steps", "finetune")


def _known_type(name: str) -> str:
    if name not in ENCODER_TYPES and not is_custom(name):
        raise ValueError(
            f"unknown type: {choices(name, ENCODER_TYPES)} An encoder of your own is named module:Class"
        )
    return name


def _known_function(name: str) -> str:
    if not is_custom(name):
        raise ValueError("name a function of your own as module:function")
    return name


EncoderType = Annotated[str, AfterValidator(_known_type)]
"""One of :data:`ENCODER_TYPES`, or a class as ``module:Class``."""

CustomName = Annotated[str, AfterValidator(_known_function)]
"""A function as ``module:function``."""


def without(dumped: Mapping[str, Any], unused: tuple[str, ...]) -> dict[str, Any]:
    """Return dumped settings without some that nothing uses, so that hashes of other recipes stay as they were."""
    return {name: value for name, value in dumped.items() if name not in unused}
