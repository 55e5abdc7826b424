"""Events of a run, by name and with fields: the log of a workspace keeps those that matter, and a Ray session makes
metrics of them (``runtime/metrics.py``). Who tells an event knows neither.

    tell("node_lost", node="10.0.0.2")
"""

import logging
from collections.abc import Mapping
from typing import Any

LOGGER = logging.getLogger("emi_ray.events")


def tell(event: str, **fields: Any) -> None:
    """An event that matters to whoever reads the log afterwards."""
    _tell(logging.INFO, event, fields)


def count(event: str, **fields: Any) -> None:
    """An event of which there are too many, or which is too large, for a log."""
    _tell(logging.DEBUG, event, fields)


def _tell(level: int, event: str, fields: dict[str, Any]) -> None:
    short = {name: value for name, value in fields.items() if not isinstance(value, Mapping)}
    told = ", ".join(f"{name} {value}" for name, value in short.items())
    LOGGER.log(level, "%s: %s", event, told, extra={"event": event, "fields": fields})
