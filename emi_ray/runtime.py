"""Ray, local or on a cluster: the difference is configuration and nothing else."""

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from emi_ray.errors import UserError
from emi_ray.workspace import CONFIG, Workspace

MIN_LOGICAL_CPUS = 8
"""Many small pools need slots, not cores: pools that reserve every CPU never start (ray #44687)."""

STREAMING_STORE_BYTES_PER_CORE = 512 * 2**20
"""Object store of a local session through which clips only stream: bounds the memory of what is in flight."""

CORES = "cores"
"""Custom resource with a local session's physical cores, of which its logical CPUs say nothing."""


Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Machine:
    """What there is to share out, over all nodes: physical CPU cores and GPUs."""

    cpus: int
    gpus: int


@contextmanager
def ray_session(
    address: str | None = None, num_gpus: int | None = None, streaming: bool = False
) -> Iterator[None]:
    """Connect to the cluster at ``address`` (or ``RAY_ADDRESS``), else start Ray on this machine alone.

    A local session has no dashboard and ends with the block; nothing of it stays running. Inside an existing
    session the block simply uses that one.

    Args:
        streaming: bound a local session's object store to what streaming needs; by default it is a third of the
            memory, for data that many processes share.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    if not address:
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else C++ warnings cut through progress bars
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray  # after the environment is set, which Ray reads on import

    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    if address:
        _connect(address, quiet)
    else:
        cores = os.cpu_count() or 1
        with _without_native_chatter():
            ray.init(
                num_cpus=max(MIN_LOGICAL_CPUS, cores),
                num_gpus=num_gpus,
                resources={CORES: cores},
                object_store_memory=cores * STREAMING_STORE_BYTES_PER_CORE if streaming else None,
                include_dashboard=False,
                **quiet,
            )
    _quieten()
    try:
        yield
    finally:
        ray.shutdown()


def _connect(address: str, options: dict[str, Any]) -> None:
    import ray

    if address.startswith("http"):
        raise UserError(
            f"--address {address} is the address of the job API: use it with ray job submit. To run from here, "
            f"give the cluster's own address, HOST:6379 or ray://HOST:10001."
        )
    try:
        ray.init(address=address, **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(f"--address {address}: no Ray cluster answers there ({error}).") from None


@contextmanager
def _without_native_chatter() -> Iterator[None]:
    """Keep what native code writes while Ray starts off the terminal; failures are raised as exceptions."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def machine() -> Machine:
    """Physical cores and GPUs of all living nodes of the current session."""
    import ray

    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cores = sum(int(node.get(CORES, node.get("CPU", 0))) for node in resources)
    return Machine(max(cores, 1), int(sum(node.get("GPU", 0) for node in resources)))


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
    """The address of each living node that has CPUs, and what ``function(*arguments)`` returns there."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = _working_nodes()
    task = ray.remote(num_cpus=0)(function)
    strategies = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
    answers = ray.get([task.options(scheduling_strategy=s).remote(*arguments) for s in strategies])
    return [(node["NodeManagerAddress"], answer) for node, answer in zip(nodes, answers, strict=True)]


def _working_nodes() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]


def _unseen(workspace: Workspace, expected: bytes, media: Sequence[str]) -> str | None:
    """The first path that this node does not see."""
    if not workspace.exists(CONFIG) or workspace.read_bytes(CONFIG) != expected:
        return workspace.path(CONFIG)
    return next((path for path in media if not os.path.exists(path)), None)


def _quieten() -> None:
    """Leave the terminal to our own progress bars and summaries; Ray's own logs keep everything."""
    from ray.data import DataContext

    DataContext.get_current().enable_progress_bars = False
    for name in ("ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Small corpora have fewer blocks than actors, and only `ray_remote_args` can bound retries in Ray 2.60.
    warnings.filterwarnings("ignore", message="The minimum number of concurrent actors")
    warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
