"""Copy arrays to a model's device and back. Imported by extractors that use ``torch``.

A GPU copies while it computes, but only in different streams. Copies to the device and back have one stream each, so
that they overlap with the work that was launched before, and with each other.
"""

import warnings
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from emi_ray.extractors.turns import leave_turn, turn_lent

if TYPE_CHECKING:
    import torch


def to_device(arrays: Sequence[np.ndarray], device: "torch.device") -> "list[torch.Tensor]":
    """Return arrays of one dtype and of any shapes as tensors on ``device``.

    For a GPU they are packed into pinned memory and sent in a single asynchronous copy, while the GPU may still be
    busy with the previous batch. While they are packed, other threads may use the model. On a CPU the tensors share
    the memory of the arrays and must not be written to.
    """
    import torch

    if device.type == "cpu":
        with warnings.catch_warnings():
            # The arrays are views of Arrow's memory, which is read-only; torch warns, although nothing writes to
            # them.
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            return [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
    pinned = torch.empty(sum(array.nbytes for array in arrays), dtype=torch.uint8, pin_memory=True)
    with turn_lent():
        packed = pack(arrays, pinned)
    computing, copying = torch.cuda.current_stream(device), _stream(device, "in")
    with torch.cuda.stream(copying):
        sent = packed.to(device, non_blocking=True)
    computing.wait_stream(copying)
    # Its memory belongs to the other stream, and must not be used again before this one has read it.
    sent.record_stream(computing)
    return unpack(sent, arrays)


def pack(arrays: Sequence[np.ndarray], memory: "torch.Tensor") -> "torch.Tensor":
    """Copy arrays of one dtype one after another into ``memory`` (bytes). Returns the part that they fill."""
    filled = memory[: sum(array.nbytes for array in arrays)]
    np.concatenate([array.reshape(-1) for array in arrays], out=filled.numpy().view(arrays[0].dtype))
    return filled


def unpack(packed: "torch.Tensor", arrays: Sequence[np.ndarray]) -> "list[torch.Tensor]":
    """Return the arrays that :func:`pack` has joined, as tensors with the shapes and dtype of ``arrays``, without a
    copy.
    """
    import torch

    dtype = torch.from_numpy(np.empty(0, arrays[0].dtype)).dtype
    parts = packed.view(dtype).split([array.size for array in arrays])
    return [part.view(array.shape) for part, array in zip(parts, arrays, strict=True)]


def to_host(tensors: Sequence["torch.Tensor"]) -> list[np.ndarray]:
    """Return results of a model as arrays. All work of the batch must have been launched.

    From a GPU they are copied to pinned memory, ten times as fast as to pageable memory. While this thread waits for
    them, and afterwards, other threads may use the model.
    """
    import torch

    if not tensors or tensors[0].device.type == "cpu":
        return [tensor.numpy() for tensor in tensors]
    pinned = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
    device = tensors[0].device
    computing, copying = torch.cuda.current_stream(device), _stream(device, "out")
    copying.wait_stream(computing)
    with torch.cuda.stream(copying):
        for memory, tensor in zip(pinned, tensors, strict=True):
            memory.copy_(tensor, non_blocking=True)
    arrived = torch.cuda.Event(blocking=True)  # the waiting thread sleeps, so that others can use its core
    arrived.record(copying)
    leave_turn()
    arrived.synchronize()  # the caller holds the tensors until then, so their memory is not used again too early
    return [memory.numpy() for memory in pinned]


def features_to_host(
    features: Sequence["torch.Tensor"], computed_in: "torch.dtype", extras: Sequence["torch.Tensor"] = ()
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return features, and further values per step, as arrays. All work of the batch must have been launched.

    Features of a model that computes in float32 are float32, and the store decides whether float16 would lose their
    variation. A model that computes in 16 bits has no more digits than float16, so that its features are float16,
    which halves the copy and the work of the host. They are float32 if one of them is beyond the range of float16.

    Args:
        computed_in: dtype of the model. The features may have another one.

    Returns:
        The features, and the extras as float32.
    """
    import torch

    further = [values.float() for values in extras]
    if computed_in == torch.float32:
        arrays = to_host([*features, *further])
        return arrays[: len(features)], arrays[len(features) :]
    rounded = [part.half() for part in features]
    # Whether they fit is known when the passes have ended, and asking the device would wait for that. Therefore the
    # largest magnitudes travel with the features; they cost one reduction per tensor, but no further wait.
    largest = torch.stack([torch.linalg.vector_norm(part, torch.inf) for part in rounded])
    *arrays, magnitudes = to_host([*rounded, *further, largest])
    found = arrays[: len(features)]
    if not np.isfinite(magnitudes).all():  # such a batch is copied twice
        found = to_host([part.float() for part in features])
    return found, arrays[len(features) :]


@cache
def _stream(device: "torch.device", direction: str) -> "torch.cuda.Stream":
    """Return the stream of this process for copies to (``in``) or from (``out``) a device."""
    import torch

    return torch.cuda.Stream(device)
