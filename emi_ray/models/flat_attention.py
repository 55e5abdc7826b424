"""Attention pooling over clips as they lie in memory: no padding, no gathering, float16 read as it is.

The features come from memory once forwards and once backwards, and nothing is written but the result: the
loops of :mod:`emi_ray.models.attention_kernel` score a step and sum it while it is in the core's first cache.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class FlatSteps:
    """Some clips' steps in the memory of all: clip i is ``values[starts[i] : starts[i] + lengths[i]]``.

    ``values`` (sum of all steps, D) is float16 or float32, on the CPU, and takes no gradient; ``starts`` and
    ``lengths`` are (B,) int64.
    """

    values: Tensor
    starts: np.ndarray
    lengths: np.ndarray

    def as_kernel_arguments(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """float16 goes as its bits: the kernel's compiler knows no such array."""
        values = self.values.numpy()
        return values.view(np.uint16) if values.dtype == np.float16 else values, self.starts, self.lengths


def attend(steps: FlatSteps, weight: Tensor) -> Tensor:
    """Softmax-weighted sum of each clip's steps, scored by ``weight`` (D,): (B, D). No steps give zeros."""
    pooled: Tensor = _Attend.apply(weight, steps)
    return pooled


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, steps: FlatSteps) -> Tensor:
        # Here, because its compiler takes half a second to import, and only training on a CPU comes here.
        from emi_ray.models.attention_kernel import pool

        pooled = weight.new_zeros(len(steps.starts), weight.shape[0])
        ctx.steps, ctx.shares = steps, np.empty(steps.lengths.sum(), np.float32)
        pool(*steps.as_kernel_arguments(), weight.detach().numpy(), pooled.numpy(), ctx.shares)
        ctx.save_for_backward(pooled)
        return pooled

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        from emi_ray.models.attention_kernel import pull_back

        (pooled,) = ctx.saved_tensors
        result = gradient.new_zeros(gradient.shape[1])
        centres = (gradient * pooled).sum(dim=1).numpy()
        values, starts, lengths = ctx.steps.as_kernel_arguments()
        pull_back(values, starts, lengths, ctx.shares, gradient.contiguous().numpy(), centres, result.numpy())
        return result, None
