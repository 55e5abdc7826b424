"""Ray on this machine or on a cluster; they differ only in configuration.

session.py       ray_session(): this machine only, or a cluster
address.py       check that a cluster answers at an address
head_watch.py    detect the loss of a cluster's head while a command runs
node_watch.py    detect nodes that die or join while a command runs
priority.py      lower the priority of a process whose work can wait
nodes.py         the resources of the nodes, and whether all of them can read the workspace
ray_errors.py    results of remote functions, and the meaning of Ray's errors
worker_places.py placement groups of Ray Train: those left behind are removed, a long wait is reported
"""

from emi_ray.runtime.nodes import (
    CORES,
    READERS,
    Machine,
    is_local_session,
    machine,
    machines,
    on_every_node,
    require_shared,
)
from emi_ray.runtime.ray_errors import end_tasks, results_of
from emi_ray.runtime.session import MIN_LOGICAL_CPUS, ray_session

__all__ = [
    "CORES",
    "MIN_LOGICAL_CPUS",
    "READERS",
    "Machine",
    "end_tasks",
    "is_local_session",
    "machine",
    "machines",
    "on_every_node",
    "ray_session",
    "require_shared",
    "results_of",
]
