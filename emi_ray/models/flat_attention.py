"""Attention pooling over clips as they lie in memory: no padding, no gathering, float16 read as it is.

A clip's steps are read in pieces of at most two megabytes, which mostly stay in a core's cache between being
scored and being summed. So the features come from memory once forwards and once backwards. Softmax over
pieces: the running maximum of Milakov and Gimelshein (2018), "Online normalizer calculation for softmax".
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_PIECE_VALUES = 1 << 19


@dataclass(frozen=True)
class FlatSteps:
    """Some clips' steps in the memory of all: clip i is ``values[starts[i] : starts[i] + lengths[i]]``.

    ``values`` (sum of all steps, D) is float16 or float32, on the CPU, and takes no gradient.
    """

    values: Tensor
    starts: Sequence[int]
    lengths: Sequence[int]

    @property
    def piece_steps(self) -> int:
        """Steps of a piece."""
        return max(16, _PIECE_VALUES // self.values.shape[1])

    def pieces(self, clip: int, buffer: Tensor) -> Iterator[Tensor]:
        """The steps of a clip in pieces, (n, D) float32 each; ``buffer`` is overwritten by the next piece."""
        start, left, size = self.starts[clip], self.lengths[clip], self.piece_steps
        while left > 0:
            count = min(left, size)
            piece = self.values.narrow(0, start, count)
            yield piece if piece.dtype == torch.float32 else buffer.narrow(0, 0, count).copy_(piece)
            start, left = start + count, left - count

    def buffer(self) -> Tensor:
        """Room for one piece."""
        return torch.empty(self.piece_steps, self.values.shape[1])


def attend(steps: FlatSteps, weight: Tensor) -> Tensor:
    """Softmax-weighted sum of each clip's steps, scored by ``weight`` (D,): (B, D). No steps give zeros."""
    pooled: Tensor = _Attend.apply(weight, steps)
    return pooled


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, steps: FlatSteps) -> Tensor:
        pooled = weight.new_zeros(len(steps.starts), weight.shape[0])
        buffer = steps.buffer()
        ctx.shares = [
            _pool_clip(steps, clip, weight, row, buffer) for clip, row in enumerate(pooled.unbind(0))
        ]
        ctx.steps = steps
        ctx.save_for_backward(pooled)
        return pooled

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """d/d weight = sum over steps of share x (step·g - pooled·g) x step, for each clip's gradient g."""
        (pooled,) = ctx.saved_tensors
        steps: FlatSteps = ctx.steps
        result = gradient.new_zeros(gradient.shape[1])
        centres = (gradient * pooled).sum(dim=1).tolist()
        buffer = steps.buffer()
        for clip, (row, centre) in enumerate(zip(gradient.contiguous().unbind(0), centres, strict=True)):
            for piece, shares in zip(steps.pieces(clip, buffer), ctx.shares[clip], strict=True):
                result.addmv_(piece.t(), torch.mv(piece, row).sub_(centre).mul_(shares))
        return result, None


def _pool_clip(
    steps: FlatSteps, clip: int, weight: Tensor, pooled: Tensor, buffer: Tensor
) -> Sequence[Tensor]:
    """Write one clip's weighted sum to ``pooled`` (D,); returns the weights of its steps, by piece."""
    if not steps.lengths[clip]:
        return ()
    if steps.lengths[clip] <= steps.piece_steps:
        (piece,) = steps.pieces(clip, buffer)
        shares = torch.softmax(torch.mv(piece, weight), dim=0)
        torch.mv(piece.t(), shares, out=pooled)
        return (shares,)
    grown, tops, top, total = [], [], -math.inf, 0.0
    for piece in steps.pieces(clip, buffer):
        scores = torch.mv(piece, weight)
        highest = max(top, float(scores.max()))
        shrunk, top = math.exp(top - highest), highest
        scores.sub_(highest).exp_()
        pooled.addmv_(piece.t(), scores, beta=shrunk)
        total = total * shrunk + float(scores.sum())
        grown.append(scores)
        tops.append(highest)
    pooled.div_(total)
    return [scores.mul_(math.exp(then - top) / total) for scores, then in zip(grown, tops, strict=True)]
