"""How news of running trainings reach the driver."""

from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

OnProgress = Callable[[str, Mapping[str, Any]], None]
"""Called after every epoch with the name of the job and what ``history.csv`` will say of the epoch."""


class _Inbox:
    """Holds the news until the driver takes them, so that neither side waits for the other."""

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
    """The driver's end and, pickled into a job, the workers' end of an :class:`_Inbox`.

    The actor lives on the driver's node: no other node's death can take the news with it.
    """

    def __init__(self) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._actor: Any = ray.remote(num_cpus=0)(_Inbox).options(scheduling_strategy=here).remote()

    def tell(self, job: str, scores: Mapping[str, Any]) -> None:
        """Called by a worker after an epoch; does not wait."""
        self._actor.add.remote(job, dict(scores))

    def take(self) -> list[tuple[str, dict[str, Any]]]:
        """Called by the driver: the news since the last call, each with the name of its job."""
        news: list[tuple[str, dict[str, Any]]] = ray.get(self._actor.take.remote())
        return news

    def set_problem(self, message: str) -> None:
        """Called by a worker that met a user's mistake, which trying again would not mend."""
        ray.get(self._actor.set_problem.remote(message))

    def problem(self) -> str | None:
        """The mistake that a worker met."""
        problem: str | None = ray.get(self._actor.problem.remote())
        return problem

    def close(self) -> None:
        ray.kill(self._actor)
