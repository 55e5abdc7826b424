"""How many trainings run at once, and what each of them takes of a machine.

A training here is a trial of a search, a run, or the first stage of one encoder. Knows Ray.
"""

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import ray

from emi_ray.errors import UserError
from emi_ray.runtime import CORES, machine, results_of

if TYPE_CHECKING:  # the driver needs no torch
    import torch

_SHARE_OF_MEMORY = 0.9
_CUDA_CONTEXT_BYTES = 600 << 20
_WORKING_BYTES = 512 << 20
"""Activations, weights and the optimiser of a small model, and an evaluation batch."""


@dataclass(frozen=True)
class JobResources:
    """What one training takes, and how many run at once; ``threads`` is for torch."""

    concurrent: int
    cpus: float
    gpus: float
    threads: int

    @property
    def request(self) -> dict[str, float]:
        """As Ray spells it. A local session counts logical CPUs, and cores of its own beside them."""
        wanted = {"CPU": self.cpus, "GPU": self.gpus}
        if ray.cluster_resources().get(CORES):
            wanted |= {"CPU": min(self.cpus, 0.1), CORES: self.cpus}
        return {name: amount for name, amount in wanted.items() if amount > 0}

    def shared_out(self, num_jobs: int) -> "list[JobResources]":
        """What each of ``num_jobs`` trainings takes: larger shares of the GPUs where there are few of them."""
        if not self.gpus:
            return [self] * num_jobs
        shares = gpu_shares(num_jobs, machine().gpus, max(1, int(1 / self.gpus + 1e-9)))
        return [replace(self, gpus=share) for share in shares]

    def take_up(self) -> "torch.device":
        """Called in the process that trains: sets torch's threads; returns the device to train on,
        which is the CPU where a GPU was given that torch cannot use."""
        import torch

        torch.set_num_threads(self.threads)
        return torch.device("cuda" if self.gpus > 0 and torch.cuda.is_available() else "cpu")

    @property
    def options(self) -> dict[str, Any]:
        """The same as options of a remote function."""
        custom = {name: amount for name, amount in self.request.items() if name not in ("CPU", "GPU")}
        return {"num_cpus": self.request.get("CPU", 0), "num_gpus": self.gpus, "resources": custom}


def size_jobs(
    data_bytes: int,
    concurrent: int | None = None,
    gpus: float | None = None,
    gpu_bytes: int | None = None,
) -> JobResources:
    """Share the session's machines out among trainings.

    Args:
        data_bytes: of the features, which each training holds on its GPU.
        concurrent: trainings at once; by default one a core, or as many as the GPUs' memory holds.
        gpus: of one training; by default by memory, and none where there is no GPU.
        gpu_bytes: memory of the smallest GPU; None: not known, one training each.

    Raises:
        UserError: the session has fewer GPUs than one training is to have.
    """
    total = machine()
    if gpus is not None and gpus > total.gpus:
        raise UserError(f"{gpus:g} GPUs are wanted for each training: this session has {total.gpus} GPUs.")
    if total.gpus and gpus is None:
        gpus = 1 / min(jobs_per_gpu(data_bytes, gpu_bytes), max(1, total.cpus // total.gpus))
    gpus = gpus or 0.0
    fitting = int(total.gpus / gpus + 1e-9) if gpus else total.cpus
    concurrent = max(1, min(concurrent or fitting, fitting) if gpus else concurrent or fitting)
    cpus = min(1.0, total.cpus / concurrent)
    return JobResources(concurrent, cpus, gpus, max(1, _cores_here(total.cpus) // concurrent))


def jobs_per_gpu(data_bytes: int, gpu_bytes: int | None) -> int:
    """How many trainings one GPU's memory holds, at least 1."""
    if gpu_bytes is None:
        return 1
    one = data_bytes + _CUDA_CONTEXT_BYTES + _WORKING_BYTES
    return max(1, int(_SHARE_OF_MEMORY * gpu_bytes // one))


def gpu_shares(num_jobs: int, total_gpus: int, most: int) -> list[float]:
    """The GPU share of each of ``num_jobs`` trainings, such that none of the GPUs is left without work.

    Ray fills one GPU before it touches the next. Equal shares would therefore put five trainings on three of four
    GPUs. Here each GPU's trainings get the shares that fill exactly that GPU.

    Args:
        most: how many trainings one GPU holds at once; further ones wait for their turn.
    """
    if not total_gpus:
        return [0.0] * num_jobs
    if num_jobs >= total_gpus * most:
        return [1 / most] * num_jobs
    on_each = [num_jobs // total_gpus + (gpu < num_jobs % total_gpus) for gpu in range(total_gpus)]
    return [1 / count for count in on_each for _ in range(count)]


def smallest_gpu_bytes() -> int | None:
    """Memory of a GPU of the session, asked where one is; None where there is none."""
    if not machine().gpus:
        return None
    answer: int | None = results_of(ray.remote(num_gpus=1, num_cpus=0)(_memory_of_gpu).remote())
    return answer


def _memory_of_gpu() -> int | None:
    import torch

    return int(torch.cuda.get_device_properties(0).total_memory) if torch.cuda.is_available() else None


def _cores_here(total: int) -> int:
    return min(total, os.cpu_count() or 1)
