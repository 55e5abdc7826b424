"""The interface of trackers, which receive runs and their scores. One thread calls their methods, in order."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

RunState = Literal["finished", "pruned", "failed", "interrupted"]


@dataclass(frozen=True)
class TrackedRun:
    """A run, or a trial of a search.

    Attributes:
        name: name within the workspace, such as ``f2/42``; of a trial the study and its number.
        group: the study, or else the recipe.
        settings: settings by dotted name, as ``training.lr``; values are numbers, texts, booleans.
        tags: ``recipe`` and ``seed`` of a run, ``study`` of all that belongs to a search.
    """

    name: str
    group: str
    settings: Mapping[str, Any]
    tags: Mapping[str, str] = field(default_factory=dict)


class Tracker(Protocol):
    """Receives runs. Errors may be raised; they end no run."""

    def begin(self, run: TrackedRun) -> None:
        """Record that a run begins, or that it continues a run which an earlier command began."""

    def log(self, run: TrackedRun, stage: str, epoch: int, values: Mapping[str, float]) -> None:
        """Record losses and scores of a stage after an epoch. Epochs may be repeated, and may come out of order."""

    def end(self, run: TrackedRun, state: RunState, scores: Mapping[str, float]) -> None:
        """Record the end of a run and its final scores."""

    def close(self) -> None:
        """Close the tracker; no other method is called afterwards."""


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values by dotted name, without empty values; lists and other objects become text."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{name}.")
        elif value is not None and value != []:
            result[f"{prefix}{name}"] = value if isinstance(value, bool | int | float | str) else str(value)
    return result
