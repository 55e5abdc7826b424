"""Number of concurrent trainings, and the Ray resources of each.

A training is a trial of a search, a run, or a stage-1 encoder.
"""

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import ray

from emi_ray.errors import UserError
from emi_ray.runtime import CORES, is_local_session, machine, results_of

if TYPE_CHECKING:  # the driver does not need torch
    import torch

# The rest is a reserve, for example for fragmentation in torch's allocator.
_SHARE_OF_MEMORY = 0.9
# Each process that uses a GPU has a CUDA context of its own, of about half a gigabyte.
_CUDA_CONTEXT_BYTES = 600 << 20
_WORKING_BYTES = 512 << 20
"""GPU memory for the activations, weights and optimiser state of a small model, and for an evaluation batch."""


@dataclass(frozen=True)
class JobResources:
    """The resources of one training.

    Attributes:
        concurrent: number of trainings that run at once.
        cpus: CPU cores of one training.
        gpus: fraction of a GPU, or number of GPUs, of one training.
        threads: number of torch's threads.
    """

    concurrent: int
    cpus: float
    gpus: float
    threads: int

    @property
    def request(self) -> dict[str, float]:
        """The resources in Ray's format. A local session has a custom resource for cores besides logical CPUs."""
        wanted = {"CPU": self.cpus, "GPU": self.gpus}
        if is_local_session():
            # Logical CPUs also serve other tasks; the physical cores limit how many trainings run at once.
            wanted |= {"CPU": min(self.cpus, 0.1), CORES: self.cpus}
        return {name: amount for name, amount in wanted.items() if amount > 0}

    def shared_out(self, num_jobs: int) -> "list[JobResources]":
        """Return the resources of each of ``num_jobs`` trainings; if there are few, each gets more of a GPU."""
        if not self.gpus:
            return [self] * num_jobs
        # 1e-9 makes up for rounding: 1 / (1 / 3) may be a little less than 3.
        shares = gpu_shares(num_jobs, machine().gpus, max(1, int(1 / self.gpus + 1e-9)))
        return [replace(self, gpus=share) for share in shares]

    def take_up(self) -> "torch.device":
        """Set the number of torch's threads, and return the device to train on. Call it in the training process.

        The device is the CPU if torch cannot use the assigned GPU.
        """
        import torch

        torch.set_num_threads(self.threads)
        return torch.device("cuda" if self.gpus > 0 and torch.cuda.is_available() else "cpu")

    @property
    def options(self) -> dict[str, Any]:
        """The resources as options of a Ray remote function."""
        custom = {name: amount for name, amount in self.request.items() if name not in ("CPU", "GPU")}
        return {"num_cpus": self.request.get("CPU", 0), "num_gpus": self.gpus, "resources": custom}


def size_jobs(
    data_bytes: int,
    concurrent: int | None = None,
    gpus: float | None = None,
    gpu_bytes: int | None = None,
) -> JobResources:
    """Compute how many trainings run at once in this Ray session, and the resources of each.

    Args:
        data_bytes: size of the features, which each training copies to its GPU.
        concurrent: number of concurrent trainings; by default one per core, or as many as fit into GPU memory.
        gpus: GPUs of one training; by default from the memory, 0 without GPUs.
        gpu_bytes: memory of the smallest GPU; if None, one training runs on each GPU.

    Raises:
        UserError: the session has fewer GPUs than one training needs.
    """
    total = machine()
    if gpus is not None and gpus > total.gpus:
        raise UserError(f"Each training needs {gpus:g} GPUs, but this session has {total.gpus} GPUs.")
    # No more trainings share a GPU than there are cores for each GPU to feed them.
    if total.gpus and gpus is None:
        gpus = 1 / min(jobs_per_gpu(data_bytes, gpu_bytes), max(1, total.cpus // total.gpus))
    gpus = gpus or 0.0
    fitting = int(total.gpus / gpus + 1e-9) if gpus else total.cpus
    # On GPUs a larger wish cannot be met; on CPUs more trainings than cores may share them.
    concurrent = max(1, min(concurrent or fitting, fitting) if gpus else concurrent or fitting)
    # With more trainings than cores, Ray must see fractions of a core to start all of them.
    cpus = min(1.0, total.cpus / concurrent)
    return JobResources(concurrent, cpus, gpus, max(1, _cores_here(total.cpus) // concurrent))


def jobs_per_gpu(data_bytes: int, gpu_bytes: int | None) -> int:
    """Return how many trainings fit into the memory of one GPU, at least 1."""
    if gpu_bytes is None:
        return 1
    one = data_bytes + _CUDA_CONTEXT_BYTES + _WORKING_BYTES
    return max(1, int(_SHARE_OF_MEMORY * gpu_bytes // one))


def gpu_shares(num_jobs: int, total_gpus: int, most: int) -> list[float]:
    """Compute the GPU share of each training so that no GPU is idle.

    Ray fills one GPU before it uses the next one. With equal shares, five trainings could thus run on only three of
    four GPUs. Therefore the shares of the trainings of each GPU add up to exactly one GPU.

    Args:
        num_jobs: number of trainings.
        total_gpus: number of GPUs.
        most: maximum number of concurrent trainings on one GPU; further trainings wait.
    """
    if not total_gpus:
        return [0.0] * num_jobs
    if num_jobs >= total_gpus * most:
        return [1 / most] * num_jobs
    on_each = [num_jobs // total_gpus + (gpu < num_jobs % total_gpus) for gpu in range(total_gpus)]
    return [1 / count for count in on_each for _ in range(count)]


def smallest_gpu_bytes() -> int | None:
    """Return the memory of a GPU of the session in bytes, queried on its node; None without GPUs."""
    if not machine().gpus:
        return None
    # The driver's node may have no GPU, so a task on a GPU node asks.
    answer: int | None = results_of(ray.remote(num_gpus=1, num_cpus=0)(_memory_of_gpu).remote())
    return answer


def _memory_of_gpu() -> int | None:
    import torch

    return int(torch.cuda.get_device_properties(0).total_memory) if torch.cuda.is_available() else None


def _cores_here(total: int) -> int:
    # Threads act within one node, but the total counts the cores of all nodes.
    return min(total, os.cpu_count() or 1)
