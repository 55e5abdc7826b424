"""Choose the nodes of the actors on the CPU, by the cores of each node.

Ray spreads actors evenly over the nodes on which they fit, whatever the sizes of the nodes: of ten decoders, a node
with 2 cores would get as many as one with 10. If they reserved whole CPUs they would fit by cores, but then pools
would wait for each other as soon as another job reserves a CPU.
"""

from collections import Counter
from collections.abc import Mapping

from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from emi_ray.extraction.pools import Pool
from emi_ray.runtime import Machine


class Places:
    """Divides actors among nodes in proportion to their cores; each process on a GPU keeps one core of its node.

    Args:
        cores: by node id, the cores for actors on the CPU; at least one.
    """

    def __init__(self, cores: Mapping[str, float]) -> None:
        self._cores = {node: number for node, number in cores.items() if number > 0}
        self._actors: Counter[str] = Counter()

    @classmethod
    def among(cls, nodes: Mapping[str, Machine], pools: Mapping[str, Pool]) -> "Places | None":
        """Return the places for the actors of all ``pools``; None if Ray's even distribution is right."""
        cores = {node: float(has.cpus) for node, has in nodes.items() if has.cpus}
        num_gpus = sum(has.gpus for has in nodes.values())
        processes = max((pool.max_actors for pool in pools.values() if pool.num_gpus), default=0)
        kept = {node: processes * nodes[node].gpus / max(num_gpus, 1) for node in cores}
        left = {node: max(cores[node] - kept[node], 0.0) for node in cores}
        # If processes on GPUs need all cores, the actors on the CPU compete with them everywhere.
        cores = left if any(left.values()) else cores
        return cls(cores) if len(set(cores.values())) > 1 else None

    def next(self) -> NodeAffinitySchedulingStrategy:
        """Return where the next actor should run.

        It is the node that would then have the fewest actors per core (the method of D'Hondt). If that node dies or
        its CPUs are reserved by others, Ray takes others, and may put several actors on the same one.
        """
        chosen = min(self._cores, key=lambda node: (self._actors[node] + 1) / self._cores[node])
        self._actors[chosen] += 1
        return NodeAffinitySchedulingStrategy(chosen, soft=True, _spill_on_unavailable=True)
