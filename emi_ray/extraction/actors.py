"""Which actor this process is, and what its outcomes say of it."""

import json
import os
from dataclasses import dataclass
from functools import cache

import ray


@dataclass(frozen=True)
class Life:
    """One life of an actor: ``owner`` stays the same when Ray starts it anew, ``pid`` does not.

    ``gpus``: the ids that Ray assigned.
    """

    owner: str
    was_restarted: bool = False
    node: str = ""
    pid: int = 0
    gpus: tuple[str, ...] = ()

    def told(self) -> str:
        """As text, for the ``outcomes`` column."""
        return json.dumps([self.owner, self.was_restarted, self.node, self.pid, self.gpus])


def life_of(told: str) -> Life:
    """Inverse of :meth:`Life.told`."""
    owner, was_restarted, node, pid, gpus = json.loads(told)
    return Life(owner, was_restarted, node, pid, tuple(gpus))


def own_life() -> Life:
    """The life of the actor that this process is; of a process outside of Ray's actors, its own."""
    context = ray.get_runtime_context() if ray.is_initialized() else None
    actor_id = context.get_actor_id() if context else None
    if context is None or actor_id is None:
        return Life(f"process-{os.getpid()}", pid=os.getpid())
    return Life(
        actor_id,
        bool(context.was_current_actor_reconstructed),
        ray.util.get_node_ip_address(),
        os.getpid(),
        tuple(map(str, ray.get_gpu_ids())),
    )


def own_name() -> str:
    """:func:`own_life` as text."""
    return _told(os.getpid(), ray.get_runtime_context().get_actor_id() if ray.is_initialized() else None)


@cache
def _told(pid: int, actor_id: str | None) -> str:
    return own_life().told()
