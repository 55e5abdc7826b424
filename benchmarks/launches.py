"""Count what one training step does on a device: kernels, copies from the host, and waits of the host.

    python benchmarks/launches.py f2

A head of this size is bound by launches on a GPU, not by arithmetic. Counted are, for one step of each stage, the
operators that start a kernel on a GPU, the arrays that are copied from the host, and the operators that make the host
wait for the device (reading a value, or indexing with a mask, whose result has an unknown size). The counts come from
torch's profiler on the CPU, with clips padded as they are on a GPU. Where there is a GPU, steps a second are timed
too, with the share of the time in which the GPU was busy: its inverse is what CUDA graphs could gain at most.
"""

import argparse
import os
import time
from collections import Counter
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from made_features import PAPER_STEPS, make_clips
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from emi_ray.models.fusion import Regressor
from emi_ray.recipe.loading import load_recipe
from emi_ray.training import loop
from emi_ray.training.data import batching
from emi_ray.training.data.clip_data import ClipData
from emi_ray.training.data.split_rows import Rows, split_rows
from emi_ray.training.stages import runner as stage_runner
from emi_ray.training.stages.train_recipe import train_recipe

_VIEWS = (
    "view reshape expand t transpose permute unsqueeze squeeze select slice as_strided detach empty empty_like "
    "empty_strided alias split unbind chunk split_with_sizes _unsafe_view unflatten narrow resolve_conj resolve_neg "
    "lift_fresh result_type new_empty new_empty_strided numpy_T is_nonzero item to contiguous"
)
NO_KERNEL = frozenset(_VIEWS.split())
WAITS = ("_local_scalar_dense", "nonzero")
WARM_UP, TIMED = 3, 200


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipes", nargs="*", default=["f2"])
    options = parser.parse_args()
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")
    data = make_clips(160, 32, seed=0, steps={**PAPER_STEPS, "audio": 60}).data
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for name in options.recipes:
        print(f"{name}, one training step of 16 clips: kernels, copies from the host, waits of the host")
        recipe = load_recipe(name, ["training.epochs=1"])
        with (
            patch.object(stage_runner, "fit", _measuring(device)),
            patch.object(batching, "FlatSteps", lambda *steps: None),
        ):
            train_recipe(recipe, data, split_rows(data), seed=0, device=device)


def _measuring(device: torch.device):
    """A substitute for ``fit`` that counts the operations of one step and then trains as usual."""

    def fit(
        model: Regressor, data: ClipData, train: np.ndarray, val: np.ndarray, *settings: Any, **options: Any
    ):
        rows, (training, objective) = Rows(train, val, options.get("inner")), settings
        seed, stage = options["seed"], options["stage"]
        fitting = loop._Fitting(model, data, rows, training, objective, seed, stage, device)
        model.train()
        fitting.criterion.start_epoch()
        batches = fitting.batcher.training_batches(train, training.batch_size, 1, [seed])
        for batch in batches[:WARM_UP]:
            fitting._step(batch)
        kernels, copies, waits = _count(fitting, batches[WARM_UP])
        speed = _speed(fitting, batches) if device.type == "cuda" else ""
        print(f"  {stage:<8}{kernels:>5}{copies:>4}{waits:>4}{speed}")
        return FIT(model, data, train, val, *settings, **options)

    return fit


FIT = stage_runner.fit


def _count(fitting: loop._Fitting, batch: np.ndarray) -> tuple[int, int, int]:
    copied = Counter()
    from_numpy = torch.from_numpy

    def counting(array: np.ndarray) -> torch.Tensor:
        copied["arrays"] += 1
        return from_numpy(array)

    with patch.object(torch, "from_numpy", counting), profile(activities=[ProfilerActivity.CPU]) as found:
        fitting._step(batch)
    parents = {event.id for event in found.events() if event.cpu_children}
    leaves = [
        event.name.removeprefix("aten::")
        for event in found.events()
        if event.name.startswith("aten::") and event.id not in parents
    ]
    kernels = [name for name in leaves if name.rstrip("_") not in NO_KERNEL and name not in WAITS]
    # The optimiser's own reads are of its CPU kernel: that of a GPU does not read back.
    waits = [event for event in found.events() if event.name.removeprefix("aten::") in WAITS]
    return (
        len(kernels),
        copied["arrays"],
        sum("aten::_fused_adamw_" not in _parents(event) for event in waits),
    )


def _parents(event: FunctionEvent) -> list[str]:
    names = []
    while event.cpu_parent is not None:
        event = event.cpu_parent
        names.append(event.name)
    return names


def _speed(fitting: loop._Fitting, batches: list[np.ndarray]) -> str:
    """Return steps per second on a GPU, and the share of the time in which the GPU was busy."""
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        torch.cuda.synchronize()
        started = time.perf_counter()
        for step in range(TIMED):
            fitting._step(batches[step % len(batches)])
        torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    busy = sum(event.self_device_time_total for event in found.key_averages()) / 1e6
    return f"{TIMED / seconds:>8.0f} steps a second, GPU busy {busy / seconds:.0%}"


if __name__ == "__main__":
    main()
