"""What every function of the API takes: workspaces and settings."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from emi_ray.errors import UserError

Overrides = Mapping[str, Any] | Sequence[str]
"""Settings: ``{"training.epochs": 30}``, or as the command line has them, ``["training.epochs=30"]``."""


def overrides_of(settings: Overrides) -> list[str]:
    """Settings as ``section.key=value``, the value as JSON.

    Raises:
        UserError: they are one text.
    """
    if isinstance(settings, str):
        raise UserError(f"settings = {settings!r}: give a list of settings, or a mapping.")
    if isinstance(settings, Mapping):
        return [f"{name}={json.dumps(value)}" for name, value in settings.items()]
    return list(settings)
