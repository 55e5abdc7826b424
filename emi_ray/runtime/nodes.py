"""The resources of the nodes of the current session, and whether all of them can read the workspace."""

import logging
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from emi_ray.errors import UserError
from emi_ray.workspace import CONFIG, Workspace

CORES = "cores"
"""Custom resource with the number of physical cores of a local session, which has more logical CPUs."""

READERS = "readers"
"""Custom resource of a local session: the maximum number of tasks that read features at the same time, one per core,
so that the first features are available soon."""

_POLL_S = 2.0
_LOG = logging.getLogger(__name__)

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Machine:
    """Physical CPU cores and GPUs of one node, or of all nodes together."""

    cpus: int
    gpus: int


def machines() -> dict[str, Machine]:
    """Return the physical cores and GPUs of each living node of the current session, by node id."""
    import ray

    resources = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
    # Nodes of a cluster do not have this resource; their logical CPUs count as cores.
    return {
        node: Machine(int(has.get(CORES, has.get("CPU", 0))), int(has.get("GPU", 0)))
        for node, has in resources.items()
    }


def machine() -> Machine:
    """Return the physical cores and GPUs of all living nodes of the current session."""
    nodes = machines().values()
    return Machine(max(sum(node.cpus for node in nodes), 1), sum(node.gpus for node in nodes))


def is_local_session() -> bool:
    """Return whether Ray was started by this command, on this machine alone, rather than connected to a cluster."""
    import ray

    return CORES in ray.cluster_resources()


@dataclass(frozen=True)
class _Wanted:
    nodes: int
    gpus: int


def await_nodes() -> None:
    """Wait until the cluster has the nodes and GPUs that environment variables ask for, and request them from its
    autoscaler.

    ``EMI_RAY_WAIT_FOR_NODES`` (default 1, with CPUs) and ``EMI_RAY_WAIT_FOR_GPUS`` (default 0) give the numbers.
    This is needed because pools are sized by the nodes that are alive, and a cluster may start without any. After
    ``EMI_RAY_WAIT_S`` seconds (default 600) a run begins with the nodes that there are.

    Raises:
        UserError: there is still no node with CPUs, or a variable is not a number.
    """
    from ray.autoscaler.sdk import request_resources

    wanted = _Wanted(max(_number_in("EMI_RAY_WAIT_FOR_NODES", 1), 1), _number_in("EMI_RAY_WAIT_FOR_GPUS", 0))
    deadline = time.monotonic() + patience_s()
    if _has(wanted):
        return
    _LOG.info("Waiting for %d nodes with CPUs and %d GPUs.", wanted.nodes, wanted.gpus)
    # The request stays in force until it is replaced, so it is withdrawn below.
    request_resources(bundles=[{"CPU": 1}] * wanted.nodes + [{"GPU": 1}] * wanted.gpus)
    while not _has(wanted) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    request_resources(bundles=[])  # nodes in use are kept anyway
    if not _working_nodes():
        raise UserError(
            "The cluster has no node with CPUs, and none has joined: start one, or check why the autoscaler does not "
            "(ray status)."
        )
    if not _has(wanted):
        _LOG.warning("Not all nodes have joined; the run begins with %d nodes.", len(_working_nodes()))


def patience_s() -> int:
    """Return how long a run waits for nodes: ``EMI_RAY_WAIT_S`` seconds, by default 600."""
    return _number_in("EMI_RAY_WAIT_S", 600)


def _has(wanted: _Wanted) -> bool:
    nodes = _working_nodes()
    gpus = sum(node["Resources"].get("GPU", 0) for node in nodes)
    return len(nodes) >= wanted.nodes and gpus >= wanted.gpus


def _number_in(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default))
    if not text.isdecimal():
        raise UserError(f"{variable} is '{text}', but should be a whole number.")
    return int(text)


def require_shared(
    workspace: Workspace, media: Sequence[str] = (), among: Collection[str] | None = None
) -> None:
    """Check that every living node can read the workspace and a sample of the media.

    Args:
        among: ids of the nodes to check; None: all.

    Raises:
        UserError: a local path does not exist on some node, or no node is alive.
    """
    import ray

    nodes = _working_nodes(among)
    if not nodes and among is None:
        raise UserError(
            "The cluster has no node with CPUs yet: start one, or raise min_workers in cluster.yaml."
        )
    # The driver has already read the workspace, so its own node needs no check.
    if [node["NodeID"] for node in nodes] == [ray.get_runtime_context().get_node_id()]:
        return
    # Files that the driver lacks too are faults of single clips, not of a node's mounts.
    paths = [path for path in media if "://" not in path and os.path.exists(path)]
    answers = on_nodes(nodes, _unseen, workspace, workspace.read_bytes(CONFIG), paths)
    for address, unseen in answers:
        if unseen:
            raise UserError(
                f"{unseen} does not exist on node {address}, or is another file there. Put workspace and media on a "
                f"mount that all nodes share, or behind a URI such as s3://…."
            )


def on_every_node(function: Callable[..., Answer], *arguments: Any) -> list[tuple[str, Answer]]:
    """Call ``function(*arguments)`` on each living node with CPUs. Returns (address, result) of each node.

    Nodes that die meanwhile are left out.
    """
    return on_nodes(_working_nodes(), function, *arguments)


def on_nodes(
    nodes: Sequence[Mapping[str, Any]], function: Callable[..., Answer], *arguments: Any
) -> list[tuple[str, Answer]]:
    """Call ``function(*arguments)`` on each of some nodes, as :func:`on_every_node`."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0)(function)
    # With soft=False a task fails if its node dies, instead of answering for another node.
    strategies = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
    asked = [task.options(scheduling_strategy=s).remote(*arguments) for s in strategies]
    return answers_of(nodes, asked)


def answers_of(nodes: Sequence[Mapping[str, Any]], asked: Sequence[Any]) -> list[tuple[str, Any]]:
    """Return (address, result) of each node that a task was sent to, without nodes that died meanwhile."""
    import ray

    answers = []
    for node, reference in zip(nodes, asked, strict=True):
        try:
            answers.append((node["NodeManagerAddress"], ray.get(reference)))
        # An exception of the task itself is a subclass of RayError, but says nothing about the node.
        except ray.exceptions.RayTaskError:
            raise
        except ray.exceptions.RayError:
            continue
    return answers


def _working_nodes(among: Collection[str] | None = None) -> list[dict[str, Any]]:
    import ray

    working = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    return [node for node in working if among is None or node["NodeID"] in among]


def _unseen(workspace: Workspace, expected: bytes, media: Sequence[str]) -> str | None:
    """Return the first path that this node cannot read."""
    # The content is compared, because another workspace may be at the same path on a node's own disk.
    if not workspace.exists(CONFIG) or workspace.read_bytes(CONFIG) != expected:
        return workspace.path(CONFIG)
    return next((path for path in media if not os.path.exists(path)), None)
