"""Ray, local or on a cluster: the difference is configuration and nothing else.

session.py         ray_session(): this machine alone, or a cluster
address.py         whether a cluster answers at an address, and if not, why
head_watch.py   the loss of a cluster's head while a command works
nodes.py           what the nodes have, and whether they all see the workspace
ray_errors.py   what remote functions return, and what Ray's errors mean
"""

from emi_ray.runtime.nodes import CORES, Machine, machine, on_every_node, require_shared
from emi_ray.runtime.ray_errors import results_of
from emi_ray.runtime.session import MIN_LOGICAL_CPUS, ray_session

__all__ = [
    "CORES",
    "MIN_LOGICAL_CPUS",
    "Machine",
    "machine",
    "on_every_node",
    "ray_session",
    "require_shared",
    "results_of",
]
