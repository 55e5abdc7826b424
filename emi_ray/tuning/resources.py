"""How many trials run at once, and what each of them takes of a machine."""

import os
from dataclasses import dataclass
from typing import Any

import ray
import torch

from emi_ray.errors import UserError
from emi_ray.runtime import CORES, machine
from emi_ray.tuning.tuning_data import TuningData

_SHARE_OF_MEMORY = 0.9
_CUDA_CONTEXT_BYTES = 600 << 20
_WORKING_BYTES = 512 << 20
"""Activations, weights and the optimiser of a small model, and an evaluation batch."""


@dataclass(frozen=True)
class TrialResources:
    """What one trial takes, and how many run at once; ``threads`` is for torch."""

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

    def take_up(self) -> torch.device:
        """Called in a trial's process: sets torch's threads; returns the device to train on."""
        torch.set_num_threads(self.threads)
        return torch.device("cuda" if self.gpus > 0 else "cpu")

    @property
    def options(self) -> dict[str, Any]:
        """The same as options of a remote function."""
        custom = {name: amount for name, amount in self.request.items() if name not in ("CPU", "GPU")}
        return {"num_cpus": self.request.get("CPU", 0), "num_gpus": self.gpus, "resources": custom}


def size_trials(
    data_bytes: int,
    concurrent: int | None = None,
    gpus: float | None = None,
    gpu_bytes: int | None = None,
) -> TrialResources:
    """Share the session's machines out among trials.

    Args:
        data_bytes: of the features, which each trial holds on its GPU.
        concurrent: trials at once; by default one a core, or as many as the GPUs' memory holds.
        gpus: of one trial; by default by memory, and none where there is no GPU.
        gpu_bytes: memory of the smallest GPU; None: not known, one trial each.

    Raises:
        UserError: the session has fewer GPUs than one trial is to have.
    """
    total = machine()
    if gpus is not None and gpus > total.gpus:
        raise UserError(f"--gpus-per-trial {gpus:g}: this session has {total.gpus} GPUs.")
    if total.gpus and gpus is None:
        gpus = 1 / min(trials_per_gpu(data_bytes, gpu_bytes), max(1, total.cpus // total.gpus))
    gpus = gpus or 0.0
    fitting = int(total.gpus / gpus + 1e-9) if gpus else total.cpus
    concurrent = max(1, min(concurrent or fitting, fitting) if gpus else concurrent or fitting)
    cpus = min(1.0, total.cpus / concurrent)
    return TrialResources(concurrent, cpus, gpus, max(1, _cores_here(total.cpus) // concurrent))


def trials_per_gpu(data_bytes: int, gpu_bytes: int | None) -> int:
    """How many trials one GPU's memory holds, at least 1."""
    if gpu_bytes is None:
        return 1
    one = data_bytes + _CUDA_CONTEXT_BYTES + _WORKING_BYTES
    return max(1, int(_SHARE_OF_MEMORY * gpu_bytes // one))


def feature_bytes(data: TuningData) -> int:
    """Bytes of all features."""
    return sum(packed.values.nbytes for packed in data.clips.features.values())


def smallest_gpu_bytes() -> int | None:
    """Memory of a GPU of the session, asked where one is; None where there is none."""
    if not machine().gpus:
        return None
    answer: int | None = ray.get(ray.remote(num_gpus=1, num_cpus=0)(_memory_of_gpu).remote())
    return answer


def _memory_of_gpu() -> int | None:
    return int(torch.cuda.get_device_properties(0).total_memory) if torch.cuda.is_available() else None


def _cores_here(total: int) -> int:
    return min(total, os.cpu_count() or 1)
