"""Attention pooling on the CPU that reads the clips directly from packed memory, without padding or copying.

On a CPU, attention pooling is limited by memory bandwidth, and padded float32 copies would multiply the traffic. The
loops of :mod:`emi_ray.models.attention_kernel` read the (float16) features once in the forward and once in the
backward pass, and write only the result.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class FlatSteps:
    """The steps of B clips within packed memory: clip i is ``values[starts[i] : starts[i] + lengths[i]]``.

    Attributes:
        values: (sum of the steps of all clips, D) float16 or float32, on the CPU, without gradient.
        starts, lengths: (B,) int64.
    """

    values: Tensor
    starts: np.ndarray
    lengths: np.ndarray

    def as_kernel_arguments(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the arguments of the kernel; float16 is passed as uint16, because numba does not support it."""
        values = self.values.numpy()
        return values.view(np.uint16) if values.dtype == np.float16 else values, self.starts, self.lengths


def attend(steps: FlatSteps, weight: Tensor) -> Tensor:
    """Compute the softmax-weighted sum of each clip's steps.

    Args:
        steps: the steps of B clips.
        weight: (D,); the score of a step is its dot product with it.

    Returns:
        (B, D); zeros for a clip without steps.
    """
    pooled: Tensor = _Attend.apply(weight, steps)
    return pooled


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, steps: FlatSteps) -> Tensor:
        # Imported here because numba takes half a second to import, and only training on a CPU needs it.
        from emi_ray.models.attention_kernel import pool

        pooled = weight.new_zeros(len(steps.starts), weight.shape[0])
        # Arrays of numpy cannot be saved with save_for_backward, which takes tensors only.
        ctx.steps, ctx.shares = steps, np.empty(steps.lengths.sum(), np.float32)
        # numpy() shares the memory of the tensors, so the kernel writes its results into them.
        pool(*steps.as_kernel_arguments(), weight.detach().numpy(), pooled.numpy(), ctx.shares)
        ctx.save_for_backward(pooled)
        return pooled

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        from emi_ray.models.attention_kernel import pull_back

        (pooled,) = ctx.saved_tensors
        result = gradient.new_zeros(gradient.shape[1])
        # (B,): the part of the softmax's derivative that is common to all steps of a clip.
        centres = (gradient * pooled).sum(dim=1).numpy()
        values, starts, lengths = ctx.steps.as_kernel_arguments()
        # The gradient may be an expanded view without memory of its own, hence contiguous().
        pull_back(values, starts, lengths, ctx.shares, gradient.contiguous().numpy(), centres, result.numpy())
        return result, None
