"""What the nodes of the current session have, and whether they all see the workspace."""

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from emi_ray.errors import UserError
from emi_ray.workspace import CONFIG, Workspace

CORES = "cores"
"""Custom resource with a local session's physical cores, of which its logical CPUs say nothing."""

_POLL_S = 2.0
_LOG = logging.getLogger(__name__)

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Machine:
    """What there is to share out, over all nodes: physical CPU cores and GPUs."""

    cpus: int
    gpus: int


def machine() -> Machine:
    """Physical cores and GPUs of all living nodes of the current session."""
    import ray

    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cores = sum(int(node.get(CORES, node.get("CPU", 0))) for node in resources)
    return Machine(max(cores, 1), int(sum(node.get("GPU", 0) for node in resources)))


@dataclass(frozen=True)
class _Wanted:
    nodes: int
    gpus: int


def await_nodes() -> None:
    """Wait until the cluster has what ``EMI_RAY_WAIT_FOR_NODES`` (by default 1, with CPUs) and
    ``EMI_RAY_WAIT_FOR_GPUS`` (by default 0) ask for, and ask its autoscaler for it.

    Pools are sized by the nodes that are up, and a cluster may begin with none. After ``EMI_RAY_WAIT_S`` seconds, by
    default 600, a run begins with what there is.

    Raises:
        UserError: there is no node with CPUs even then, or a variable is no number.
    """
    from ray.autoscaler.sdk import request_resources

    wanted = _Wanted(max(_number_in("EMI_RAY_WAIT_FOR_NODES", 1), 1), _number_in("EMI_RAY_WAIT_FOR_GPUS", 0))
    deadline = time.monotonic() + _number_in("EMI_RAY_WAIT_S", 600)
    if _has(wanted):
        return
    _LOG.info("Waiting for %d nodes with CPUs and %d GPUs.", wanted.nodes, wanted.gpus)
    request_resources(bundles=[{"CPU": 1}] * wanted.nodes + [{"GPU": 1}] * wanted.gpus)
    while not _has(wanted) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    request_resources(bundles=[])  # what is at work is kept anyway
    if not _working_nodes():
        raise UserError(
            "The cluster has no node with CPUs, and none has come: start one, or see why the autoscaler does not "
            "(ray status)."
        )
    if not _has(wanted):
        _LOG.warning("Not all nodes have come; the run begins with %d nodes.", len(_working_nodes()))


def _has(wanted: _Wanted) -> bool:
    nodes = _working_nodes()
    gpus = sum(node["Resources"].get("GPU", 0) for node in nodes)
    return len(nodes) >= wanted.nodes and gpus >= wanted.gpus


def _number_in(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default))
    if not text.isdecimal():
        raise UserError(f"{variable} is '{text}', and should be a whole number.")
    return int(text)


def require_shared(workspace: Workspace, media: Sequence[str] = ()) -> None:
    """Make sure that every node which is up sees the workspace and a sample of the media.

    Raises:
        UserError: a local path is not there on some node, or no node is up.
    """
    import ray

    nodes = _working_nodes()
    if not nodes:
        raise UserError(
            "The cluster has no node with CPUs yet: start one, or raise min_workers in cluster.yaml."
        )
    if [node["NodeID"] for node in nodes] == [ray.get_runtime_context().get_node_id()]:
        return
    paths = [path for path in media if "://" not in path and os.path.exists(path)]
    answers = on_every_node(_unseen, workspace, workspace.read_bytes(CONFIG), paths)
    for address, unseen in answers:
        if unseen:
            raise UserError(
                f"{unseen} is not there on node {address}, or is another file there. Put workspace and media on a "
                f"mount that all nodes share, or behind a URI such as s3://…."
            )


def on_every_node(function: Callable[..., Answer], *arguments: Any) -> list[tuple[str, Answer]]:
    """The address of each living node that has CPUs, and what ``function(*arguments)`` returns there. A node that
    dies meanwhile is left out."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = _working_nodes()
    task = ray.remote(num_cpus=0)(function)
    strategies = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
    asked = [task.options(scheduling_strategy=s).remote(*arguments) for s in strategies]
    return answers_of(nodes, asked)


def answers_of(nodes: Sequence[Mapping[str, Any]], asked: Sequence[Any]) -> list[tuple[str, Any]]:
    """The address and the answer of each node that a task was sent to, but for those that died meanwhile."""
    import ray

    answers = []
    for node, reference in zip(nodes, asked, strict=True):
        try:
            answers.append((node["NodeManagerAddress"], ray.get(reference)))
        except ray.exceptions.RayTaskError:
            raise
        except ray.exceptions.RayError:
            continue
    return answers


def _working_nodes() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]


def _unseen(workspace: Workspace, expected: bytes, media: Sequence[str]) -> str | None:
    """The first path that this node does not see."""
    if not workspace.exists(CONFIG) or workspace.read_bytes(CONFIG) != expected:
        return workspace.path(CONFIG)
    return next((path for path in media if not os.path.exists(path)), None)
