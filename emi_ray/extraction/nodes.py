"""The nodes of the cluster during a run: which died, which joined, and whether any is left."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import ray

FATE_S = 30.0
"""A node that died is declared dead by then: Ray asks five times, 3 s apart."""

POLL_S = 1.0


@dataclass(frozen=True)
class Node:
    """A living node: its address, and what it has."""

    address: str
    cpus: float
    gpus: float


def living_nodes() -> dict[str, Node]:
    """The nodes that are up and have CPUs or GPUs, by id."""
    return {
        node["NodeID"]: Node(
            node["NodeManagerAddress"], node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0)
        )
        for node in ray.nodes()
        if node["Alive"] and (node["Resources"].get("CPU") or node["Resources"].get("GPU"))
    }


@dataclass
class NodeWatch:
    """What became of the nodes since a pass began.

    Attributes:
        before: the nodes for which the pools of the pass were planned.
        died, joined: addresses, in the order in which they were noticed.
    """

    look: Callable[[], dict[str, Node]] = living_nodes
    clock: Callable[[], float] = time.monotonic
    before: dict[str, Node] = field(default_factory=dict)
    now: dict[str, Node] = field(default_factory=dict)
    died: list[str] = field(default_factory=list)
    joined: list[str] = field(default_factory=list)
    _empty_since: float | None = None
    _looked_at: float = float("-inf")

    def __post_init__(self) -> None:
        self.before = self.now = self.look()

    def update(self) -> None:
        """Look again, at most once a second."""
        if self.clock() - self._looked_at < POLL_S:
            return
        self._looked_at = self.clock()
        earlier, self.now = self.now, self.look()
        self.died += [earlier[key].address for key in earlier.keys() - self.now.keys()]
        self.joined += [self.now[key].address for key in self.now.keys() - earlier.keys()]
        if self.now:
            self._empty_since = None
        elif self._empty_since is None:
            self._empty_since = self.clock()

    @property
    def empty_s(self) -> float:
        """Seconds since the last node was gone; 0 while there is one."""
        return 0.0 if self._empty_since is None else self.clock() - self._empty_since

    @property
    def has_grown(self) -> bool:
        """Whether there is more to compute on than the pools of this pass were planned for."""
        return any(
            sum(getattr(node, what) for node in self.now.values())
            > sum(getattr(node, what) for node in self.before.values())
            for what in ("cpus", "gpus")
        )

    def await_fate(self) -> None:
        """Wait until every node that may have died during the pass is known to have.

        A worker whose node died fails at once, but Ray declares the node dead only when it has not answered for a
        while. A session of one node has nothing to wait for.
        """
        deadline = self.clock() + FATE_S
        while len(self.before) > 1 and not self.died and self.clock() < deadline:
            time.sleep(POLL_S)
            self.update()
