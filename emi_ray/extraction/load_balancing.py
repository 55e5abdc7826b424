"""Choose the node of each actor of a pool, and the actor that gets the next block.

Ray Data 2.60 keeps the actors of a pool in a heap, ordered by the number of their tasks in flight. Among equals the
heap returns the actor that was updated last. If blocks arrive more slowly than the actors process them, most actors
have no task, and the actor that has just finished also gets the next block: one GPU works and the others idle. Ray
Data has no option for this, so its choice is replaced here. Its argument for placing single actors is deprecated, so
that is done here too. The version of Ray is pinned, and ``tests/cluster`` counts the clips of each GPU and the actors
of each node.
"""

from collections import Counter
from functools import partial
from typing import Any, ClassVar

from ray.actor import ActorHandle
from ray.data._internal.execution.interfaces import RefBundle
from ray.data._internal.execution.operators import actor_pool_map_operator
from ray.data._internal.execution.operators.actor_pool_map_operator import _NodeAwareActorPool

from emi_ray.extraction.placement import Places
from emi_ray.extraction.stage_chain import StageChain


class EvenPool(_NodeAwareActorPool):
    """A pool whose next block goes to the actor with the fewest tasks, and among equals to the one with the fewest
    rows.

    Actors without a GPU are placed by the cores of the nodes (``placement.py``).

    An actor on another node than the block counts as if it had already received the block. It is therefore chosen
    only if the actors near the block are further ahead than that, and blocks stay on their node while the nodes are
    balanced.
    """

    places: ClassVar[Places | None] = None
    """Chooses the nodes for all pools of the present pipeline; None leaves it to Ray."""

    def __init__(self, create_actor_fn: Any, *arguments: Any, **named: Any) -> None:
        super().__init__(partial(_create, create_actor_fn), *arguments, **named)
        self._rows: Counter[str] = Counter()  # by logical id: an actor lives as long as its handle is held

    def select_actors(
        self, bundle: RefBundle | None = None, actor_locality_enabled: bool = False
    ) -> ActorHandle | None:
        """Return an actor with room for one more task, or None.

        The rows of ``bundle`` are added to the actor's count.
        """
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


def balance_pools(places: Places | None) -> None:
    """Make all pools of Ray Data in this process choose their actors evenly, and place those on the CPU."""
    EvenPool.places = places
    # The operator looks the class up in its module when it creates a pool, so replacing the name is enough.
    actor_pool_map_operator._NodeAwareActorPool = EvenPool  # type: ignore[misc]


def _create(create: Any, *arguments: Any) -> Any:
    """Create an actor of an operator of Ray Data, of which ``create`` is a method."""
    operator = create.__self__
    # The user's own pipelines in this process keep their places.
    if (
        EvenPool.places
        and StageChain.__name__ in operator.name
        and not operator._ray_remote_args.get("num_gpus")
    ):
        operator._ray_remote_args["scheduling_strategy"] = EvenPool.places.next()
    return create(*arguments)
