"""Arguments of all functions of the API: workspaces and settings."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from emi_ray.errors import UserError

Overrides = Mapping[str, Any] | Sequence[str]
"""Settings: ``{"training.epochs": 30}``, or like on the command line, ``["training.epochs=30"]``."""


def overrides_of(settings: Overrides) -> list[str]:
    """Return settings as ``section.key=value``, with the value as JSON.

    Raises:
        UserError: the settings are a single text.
    """
    # A text is a sequence of letters, so it would pass as a list of settings.
    if isinstance(settings, str):
        raise UserError(f"settings = {settings!r}: give a list of settings, or a mapping.")
    if isinstance(settings, Mapping):
        return [f"{name}={json.dumps(value)}" for name, value in settings.items()]
    return list(settings)
