"""Watch the nodes of the cluster during a run: which have died, which have joined, and whether any is left."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import ray

FATE_S = 30.0
"""Time after which Ray has declared a dead node dead: it makes five health checks, 3 s apart."""

POLL_S = 1.0

MAX_NODE_LOSSES = 10
"""How often work that a dying node has cost is repeated before the command gives up."""


@dataclass(frozen=True)
class Node:
    """A living node with its address and resources."""

    address: str
    cpus: float
    gpus: float


def living_nodes() -> dict[str, Node]:
    """Return the nodes that are alive and have CPUs or GPUs, by node id."""
    return {
        node["NodeID"]: Node(
            node["NodeManagerAddress"], node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0)
        )
        for node in ray.nodes()
        if node["Alive"] and (node["Resources"].get("CPU") or node["Resources"].get("GPU"))
    }


@dataclass
class NodeWatch:
    """Changes of the cluster's nodes since a pass began.

    Attributes:
        look: returns the living nodes.
        before: the nodes for which the pools of the pass were planned.
        now: the nodes at the last update.
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
        """Look up the nodes again, at most once a second."""
        if self.clock() - self._looked_at < POLL_S:
            return
        self._looked_at = self.clock()
        # Compared with the previous look and not with the first one, so that a node that joins and dies is noticed.
        earlier, self.now = self.now, self.look()
        self.died += [earlier[key].address for key in earlier.keys() - self.now.keys()]
        self.joined += [self.now[key].address for key in self.now.keys() - earlier.keys()]
        if self.now:
            self._empty_since = None
        elif self._empty_since is None:
            self._empty_since = self.clock()

    @property
    def empty_s(self) -> float:
        """Seconds since the last node was lost; 0 while there is a node."""
        return 0.0 if self._empty_since is None else self.clock() - self._empty_since

    @property
    def has_grown(self) -> bool:
        """Whether the cluster has more CPUs or GPUs than the pools of this pass were planned for."""
        return any(
            sum(getattr(node, what) for node in self.now.values())
            > sum(getattr(node, what) for node in self.before.values())
            for what in ("cpus", "gpus")
        )

    def await_fate(self) -> None:
        """Wait until Ray knows whether a node has died during the pass.

        A worker on a dead node fails at once, but Ray declares the node dead only after it has missed several health
        checks. In a session of one node there is nothing to wait for.
        """
        deadline = self.clock() + FATE_S
        while len(self.before) > 1 and not self.died and self.clock() < deadline:
            time.sleep(POLL_S)
            self.update()
