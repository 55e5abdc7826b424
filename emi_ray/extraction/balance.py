"""Which actor of a pool gets the next block.

Ray Data 2.60 keeps the actors of a pool in a heap by the number of their tasks in flight. Among equals, its heap
gives back the one that was updated last. Where blocks come more slowly than actors work, most actors have no task,
and the one that has just finished gets the next block too: one GPU works and the others idle. Ray Data has no option
for this, so the pool's choice is replaced here. The version of Ray is pinned, and ``tests/cluster`` counts the clips
of each GPU.
"""

from collections import Counter
from typing import Any

from ray.actor import ActorHandle
from ray.data._internal.execution.interfaces import RefBundle
from ray.data._internal.execution.operators import actor_pool_map_operator
from ray.data._internal.execution.operators.actor_pool_map_operator import _NodeAwareActorPool


class EvenPool(_NodeAwareActorPool):
    """A pool whose next block goes to the actor with the fewest tasks; among equals, to the one with the fewest rows
    so far.

    An actor on another node than the block's is chosen among equals only when it is behind by more than this block:
    so blocks stay on their node where the nodes keep pace with each other.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._rows: Counter[str] = Counter()  # by logical id: an actor lives as long as its handle is held

    def select_actors(
        self, bundle: RefBundle | None = None, actor_locality_enabled: bool = False
    ) -> ActorHandle | None:
        """An actor with room for one more task; None if there is none. With a ``bundle`` it counts as given."""
        tasks, most = self._alive_actors_to_in_flight_tasks_heap, self.max_tasks_in_flight_per_actor()
        free = [actor for actor in tasks if tasks[actor] < most]
        if bundle is None or not free:
            return next(iter(free), None)
        rows = bundle.num_rows() or 1
        near = bundle.get_preferred_object_locations() if actor_locality_enabled else {}

        def rank(actor: ActorHandle) -> tuple[int, int]:
            is_far = bool(near) and self.get_actor_location(actor) not in near
            return tasks[actor], self._rows[self._get_actor_logical_id(actor)] + rows * is_far

        chosen = min(free, key=rank)
        self._rows[self._get_actor_logical_id(chosen)] += rows
        return chosen


def balance_pools() -> None:
    """Have all pools of Ray Data in this process choose their actors evenly."""
    actor_pool_map_operator._NodeAwareActorPool = EvenPool  # type: ignore[misc]
