"""Several Ray nodes on one machine, with GPUs that are only counted; and what each test's workspace holds."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import psutil
import ray
from ray.cluster_utils import Cluster

FAST_DEATH = {
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 4,
    "health_check_timeout_ms": 1000,
}


@contextmanager
def cluster(gpus: Sequence[int], head_cpus: int = 0, cpus: int = 4) -> Iterator[Cluster]:
    """A head and a node for each number of GPUs; the driver is connected."""
    os.environ.update(RAY_AUTH_MODE="disabled", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0")
    made = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": head_cpus,
            "num_gpus": 0,
            "include_dashboard": False,
            "_system_config": FAST_DEATH,
            "object_store_memory": 200 * 2**20,
        },
    )
    try:
        for count in gpus:
            add_node(made, count, cpus)
        ray.init(address=made.address, log_to_driver=False, logging_level="WARNING")
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def add_node(made: Cluster, gpus: int = 0, cpus: int = 4, cores: int = 1) -> object:
    """One more node, with cores of its own. Ray gives a raylet 30 s to start, which a busy machine may exceed."""
    for _ in range(2):
        with suppress(Exception):
            return _add_node(made, gpus, cpus, cores)
    return _add_node(made, gpus, cpus, cores)


def _add_node(made: Cluster, gpus: int, cpus: int, cores: int) -> object:
    return made.add_node(
        num_cpus=cpus, num_gpus=gpus, resources={"cores": cores}, object_store_memory=200 * 2**20, wait=True
    )


def have_nodes(made: Cluster, gpus: Sequence[int]) -> None:
    """Add and remove nodes, so that there is one for each number of GPUs beside the head."""
    wanted = [*gpus]
    for node in list(made.worker_nodes):
        if node._ray_params.num_gpus in wanted:
            wanted.remove(node._ray_params.num_gpus)
        else:
            made.remove_node(node)
    for count in wanted:
        add_node(made, count)
    deadline = time.monotonic() + 60
    while ray.cluster_resources().get("GPU", 0) != sum(gpus):
        assert time.monotonic() < deadline, "a node that was removed is still there"
        time.sleep(0.2)


def kill_node(node: object) -> None:
    """SIGKILL a raylet and all that it started, at once, as a machine goes."""
    process = psutil.Process(node.all_processes["raylet"][0].process.pid)  # type: ignore[attr-defined]
    for each in [*process.children(recursive=True), process]:
        try:
            each.kill()
        except psutil.NoSuchProcess:
            continue


def await_parts(workspace, least: int) -> None:
    """Wait until so many files of features are there."""
    deadline = time.monotonic() + 120
    while len([p for p in workspace.files("features", recursive=True) if p.endswith(".parquet")]) < least:
        assert time.monotonic() < deadline, "no features came"
        time.sleep(0.1)


@contextmanager
def gpu_held() -> Iterator[None]:
    """Hold one GPU of the cluster, as another job may do."""
    holder = ray.remote(num_cpus=0, num_gpus=1)(Holder).remote()
    ray.get(holder.ready.remote())
    try:
        yield
    finally:
        ray.kill(holder)


class Holder:
    """An actor that does nothing."""

    def ready(self) -> None:
        return
