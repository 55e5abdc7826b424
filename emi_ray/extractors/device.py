"""Numbers on their way to a model's device and back. Imported by extractors that are built on ``torch``."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from emi_ray.extractors.turns import turn_lent

if TYPE_CHECKING:
    import torch


def to_device(arrays: Sequence[np.ndarray], device: "torch.device") -> "list[torch.Tensor]":
    """Arrays of one dtype and of any shapes as tensors on ``device``.

    To a GPU they travel as one copy from pinned memory, which does not wait: the GPU may still be busy with the batch
    before. Until they lie there, other threads may use the model. On the CPU they stay where they are, and must not
    be written to.
    """
    import torch

    if device.type == "cpu":
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            return [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
    pinned = torch.empty(sum(array.nbytes for array in arrays), dtype=torch.uint8, pin_memory=True)
    with turn_lent():
        packed = pack(arrays, pinned)
    return unpack(packed.to(device, non_blocking=True), arrays)


def pack(arrays: Sequence[np.ndarray], memory: "torch.Tensor") -> "torch.Tensor":
    """Copy arrays of one dtype one after another into ``memory``, bytes; returns the part of it that they fill."""
    filled = memory[: sum(array.nbytes for array in arrays)]
    np.concatenate([array.reshape(-1) for array in arrays], out=filled.numpy().view(arrays[0].dtype))
    return filled


def unpack(packed: "torch.Tensor", arrays: Sequence[np.ndarray]) -> "list[torch.Tensor]":
    """What :func:`pack` joined, as tensors of the shapes and the dtype of ``arrays``; nothing is copied."""
    import torch

    dtype = torch.from_numpy(np.empty(0, arrays[0].dtype)).dtype
    parts = packed.view(dtype).split([array.size for array in arrays])
    return [part.view(array.shape) for part, array in zip(parts, arrays, strict=True)]


def to_host(values: "torch.Tensor") -> np.ndarray:
    """Features as an array of float16, as they are stored: rounded on the device, so half of the bytes travel.

    From a GPU they travel to pinned memory, at ten times the rate of pageable memory. Until they are here, other
    threads may use the model.
    """
    import torch

    rounded = values.half()
    if rounded.device.type == "cpu":
        return rounded.numpy()
    pinned = torch.empty(rounded.shape, dtype=torch.float16, pin_memory=True)
    pinned.copy_(rounded, non_blocking=True)
    arrived = torch.cuda.Event(blocking=True)  # a thread that waits leaves its core to others
    arrived.record()
    with turn_lent():
        arrived.synchronize()
    return pinned.numpy()
