"""Events of a run, with a name and fields.

The log of a workspace keeps the important ones, and a Ray session exports metrics from them
(``runtime/metrics.py``). Modules that emit events do not depend on either.

    tell("node_lost", node="10.0.0.2")
"""

import logging
from collections.abc import Mapping
from typing import Any

LOGGER = logging.getLogger("emi_ray.events")


def tell(event: str, **fields: Any) -> None:
    """Emit an event that should be in the log."""
    _tell(logging.INFO, event, fields)


def count(event: str, **fields: Any) -> None:
    """Emit an event that is too frequent or too large for the log."""
    _tell(logging.DEBUG, event, fields)


def _tell(level: int, event: str, fields: dict[str, Any]) -> None:
    short = {name: value for name, value in fields.items() if not isinstance(value, Mapping)}
    told = ", ".join(f"{name} {value}" for name, value in short.items())
    LOGGER.log(level, "%s: %s", event, told, extra={"event": event, "fields": fields})
