"""Attention pooling over clips as they lie in memory: no padding, no gathering, float16 read as it is.

A clip's steps are read in pieces of about a megabyte, which stay in a core's cache between being scored and
being summed. So the features come from memory once forwards and once backwards. Softmax over pieces: the
running maximum of Milakov and Gimelshein (2018), "Online normalizer calculation for softmax".
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_PIECE_VALUES = 1 << 17


@dataclass(frozen=True)
class FlatSteps:
    """Some clips' steps in the memory of all: clip i is ``values[starts[i] : starts[i] + lengths[i]]``.

    ``values`` (sum of all steps, D) is float16 or float32, on the CPU, and takes no gradient.
    """

    values: Tensor
    starts: Sequence[int]
    lengths: Sequence[int]

    def pieces(self, clip: int, buffer: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Offset and steps (n, D) float32 of each piece of a clip; ``buffer`` is overwritten by the next."""
        start, length, size = self.starts[clip], self.lengths[clip], len(buffer)
        for offset in range(0, length, size):
            piece = self.values[start + offset : start + min(length, offset + size)]
            if piece.dtype != torch.float32:
                piece = buffer[: len(piece)].copy_(piece)
            yield offset, piece

    def buffer(self) -> Tensor:
        feature_dim = self.values.shape[1]
        return torch.empty(max(16, _PIECE_VALUES // feature_dim), feature_dim)


def attend(steps: FlatSteps, weight: Tensor) -> Tensor:
    """Softmax-weighted sum of each clip's steps, scored by ``weight`` (D,): (B, D). No steps give zeros."""
    pooled: Tensor = _Attend.apply(weight, steps)
    return pooled


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, steps: FlatSteps) -> Tensor:  # type: ignore[override]
        pooled = weight.new_zeros(len(steps.starts), len(weight))
        buffer = steps.buffer()
        shares = [
            _pool_clip(steps, clip, weight, pooled[clip], buffer) if length else weight.new_empty(0)
            for clip, length in enumerate(steps.lengths)
        ]
        ctx.save_for_backward(pooled)
        ctx.steps, ctx.shares = steps, shares
        return pooled

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        """d/d weight = sum over steps of share x (step·g - pooled·g) x step, for each clip's gradient g."""
        (pooled,) = ctx.saved_tensors
        steps: FlatSteps = ctx.steps
        result = gradient.new_zeros(gradient.shape[1])
        gradient = gradient.contiguous()
        centres = (gradient * pooled).sum(dim=1)
        buffer = steps.buffer()
        for clip, shares in enumerate(ctx.shares):
            for offset, piece in steps.pieces(clip, buffer):
                change = torch.mv(piece, gradient[clip]).sub_(centres[clip])
                result.addmv_(piece.t(), change.mul_(shares[offset : offset + len(piece)]))
        return result, None


def _pool_clip(steps: FlatSteps, clip: int, weight: Tensor, pooled: Tensor, buffer: Tensor) -> Tensor:
    """Write one clip's weighted sum to ``pooled``; returns the weights of its steps (T,)."""
    if steps.lengths[clip] <= len(buffer):
        ((_, piece),) = steps.pieces(clip, buffer)
        shares = torch.softmax(torch.mv(piece, weight), dim=0)
        torch.mv(piece.t(), shares, out=pooled)
        return shares
    scores, top, total = [], weight.new_tensor(-torch.inf), weight.new_zeros(())
    for _, piece in steps.pieces(clip, buffer):
        score = torch.mv(piece, weight)
        highest = torch.maximum(top, score.max())
        grown, shrunk = (score - highest).exp(), (top - highest).exp()
        pooled.mul_(shrunk).addmv_(piece.t(), grown)
        total, top = total * shrunk + grown.sum(), highest
        scores.append(score)
    pooled.div_(total)
    return (torch.cat(scores) - top).exp_().div_(total)
