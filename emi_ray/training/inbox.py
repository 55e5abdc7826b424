"""A message box through which running trainings send their progress to the driver."""

from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

OnProgress = Callable[[str, Mapping[str, Any]], None]
"""Called after every epoch with the name of the job and the epoch's row of ``history.csv``."""


class _Inbox:
    """The actor that stores messages until the driver takes them, so that neither side waits for the other."""

    def __init__(self) -> None:
        self._news: list[tuple[str, dict[str, Any]]] = []
        self._problem: str | None = None

    def add(self, job: str, scores: dict[str, Any]) -> None:
        self._news.append((job, scores))

    def take(self) -> list[tuple[str, dict[str, Any]]]:
        news, self._news = self._news, []
        return news

    def set_problem(self, message: str) -> None:
        self._problem = message

    def problem(self) -> str | None:
        return self._problem


class Inbox:
    """A handle of the message box, for the driver and, pickled into a job, for the workers.

    The actor runs on the driver's node, so that messages are not lost when another node dies.
    """

    def __init__(self) -> None:
        # With soft=False Ray never moves the actor to another node.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._actor: Any = ray.remote(num_cpus=0)(_Inbox).options(scheduling_strategy=here).remote()

    def tell(self, job: str, scores: Mapping[str, Any]) -> None:
        """Send the scores of an epoch; called by a worker. Does not wait."""
        self._actor.add.remote(job, dict(scores))

    def take(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the messages since the last call, each with the name of its job; called by the driver."""
        news: list[tuple[str, dict[str, Any]]] = ray.get(self._actor.take.remote())
        return news

    def set_problem(self, message: str) -> None:
        """Send a user's mistake, which no retry can correct; called by a worker."""
        # Unlike tell, this waits: the job ends next, and the message must not be lost with its process.
        ray.get(self._actor.set_problem.remote(message))

    def problem(self) -> str | None:
        """Return the mistake that a worker has reported, or None; called by the driver."""
        problem: str | None = ray.get(self._actor.problem.remote())
        return problem

    def close(self) -> None:
        """End the actor."""
        ray.kill(self._actor)
