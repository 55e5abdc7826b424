"""Attention pooling over clips as they lie in memory: no padding, float16 read as it is.

Clips of a batch are read in pieces of at most two megabytes, which mostly stay in a core's cache between being
scored and being summed: several short clips together, or a part of a long one. So the features come from memory
once forwards and once backwards, in few calls. Softmax over the pieces of one clip: the running maximum of Milakov
and Gimelshein (2018), "Online normalizer calculation for softmax".
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

    def groups(self) -> list[list[int]]:
        """Clips that fit into one piece together, or single clips that do not; those without steps are left out."""
        groups: list[list[int]] = []
        room = 0
        for clip, length in enumerate(self.lengths):
            if 0 < length <= room:
                groups[-1].append(clip)
                room -= length
            elif length:
                groups.append([clip])
                room = self.piece_steps - length
        return groups

    def together(self, clips: Sequence[int], buffer: Tensor) -> Tensor:
        """The steps of a group, one clip after the other, (n, D) float32; the next piece overwrites them."""
        end = 0
        for clip in clips:
            begin, end = end, end + self.lengths[clip]
            buffer[begin:end].copy_(self.values.narrow(0, self.starts[clip], self.lengths[clip]))
        return buffer[:end]

    def pieces(self, clip: int, buffer: Tensor) -> Iterator[Tensor]:
        """The steps of a long clip in pieces, (n, D) float32 each; the next piece overwrites them."""
        start, left = self.starts[clip], self.lengths[clip]
        while left > 0:
            count = min(left, self.piece_steps)
            yield buffer[:count].copy_(self.values.narrow(0, start, count))
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
        ctx.groups = steps.groups()
        ctx.shares = [
            _pool_long(steps, group[0], weight, pooled[group[0]], buffer)
            if steps.lengths[group[0]] > steps.piece_steps
            else _pool_group(steps, group, weight, pooled, buffer)
            for group in ctx.groups
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
        centres = (gradient * pooled).sum(dim=1)
        buffer = steps.buffer()
        for group, shares in zip(ctx.groups, ctx.shares, strict=True):
            if isinstance(shares, list):
                row, centre = gradient[group[0]], centres[group[0]]
                for piece, part in zip(steps.pieces(group[0], buffer), shares, strict=True):
                    result.addmv_(piece.t(), torch.mv(piece, row).sub_(centre).mul_(part))
            else:
                piece, rows = steps.together(group, buffer), slice(group[0], group[-1] + 1)
                off = torch.mm(gradient[rows], piece.t()).sub_(centres[rows, None])
                result.addmv_(piece.t(), off.mul_(shares).sum(dim=0))
        return result, None


def _pool_group(
    steps: FlatSteps, group: Sequence[int], weight: Tensor, pooled: Tensor, buffer: Tensor
) -> Tensor:
    """Write the weighted sums of a group's clips to ``pooled``.

    Returns:
        The weight of every step of the group (n) for every clip from its first to its last (m), (m, n): 0 where a
        step is not the clip's own.
    """
    piece = steps.together(group, buffer)
    scores = torch.mv(piece, weight)
    rows = slice(group[0], group[-1] + 1)
    lengths = steps.lengths[rows]
    if len(lengths) == 1:
        shares = torch.softmax(scores, dim=0)[None]
    else:
        shares = scores.new_zeros(len(lengths), len(scores))
        begin = 0
        for row, length in zip(shares.unbind(0), lengths, strict=True):
            row[begin : begin + length] = torch.softmax(scores[begin : begin + length], dim=0)
            begin += length
    torch.mm(shares, piece, out=pooled[rows])
    return shares


def _pool_long(steps: FlatSteps, clip: int, weight: Tensor, pooled: Tensor, buffer: Tensor) -> list[Tensor]:
    """Write one clip's weighted sum to ``pooled`` (D,); returns the weights of its steps, by piece."""
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
