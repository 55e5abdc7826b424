"""Identity of the actor that runs in this process, as it is stored in the ``outcomes`` column."""

import json
import os
from dataclasses import dataclass
from functools import cache

import ray


@dataclass(frozen=True)
class Life:
    """One process of an actor. If Ray restarts the actor, ``owner`` stays the same and ``pid`` changes.

    Attributes:
        owner: Ray's id of the actor.
        was_restarted: whether Ray has restarted the actor before this process.
        node: IP address of the node.
        gpus: ids of the GPUs that Ray has assigned.
        gpu_share: the part of a GPU that this process has; below 1 if others use the same GPU.
    """

    owner: str
    was_restarted: bool = False
    node: str = ""
    pid: int = 0
    gpus: tuple[str, ...] = ()
    gpu_share: float = 1.0

    def told(self) -> str:
        """Return what the record of the run shows as JSON text, for the ``outcomes`` column."""
        return json.dumps([self.owner, self.was_restarted, self.node, self.pid, self.gpus])


def life_of(told: str) -> Life:
    """Parse the text of :meth:`Life.told`."""
    owner, was_restarted, node, pid, gpus = json.loads(told)
    return Life(owner, was_restarted, node, pid, tuple(gpus))


def own_life() -> Life:
    """Return the identity of the actor in this process; outside of Ray's actors, that of the process."""
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
        context.get_assigned_resources().get("GPU", 1.0),
    )


def own_name() -> str:
    """Return :func:`own_life` as text."""
    return _told(os.getpid(), ray.get_runtime_context().get_actor_id() if ray.is_initialized() else None)


@cache
def _told(pid: int, actor_id: str | None) -> str:
    return own_life().told()
