"""Which steps of a convolutional speech model lie where in time, and how a long clip is cut into windows."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

import numpy as np


@dataclass(frozen=True)
class StepGeometry:
    """Unpadded convolutions one above the other, in samples: step i sees [i·stride, i·stride + receptive)."""

    receptive: int
    stride: int

    @classmethod
    def of(cls, kernels: Sequence[int], strides: Sequence[int]) -> "StepGeometry":
        receptive, stride = 1, 1
        for kernel, step in zip(kernels, strides, strict=True):
            receptive += (kernel - 1) * stride
            stride *= step
        return cls(receptive, stride)

    def num_steps(self, num_samples: int) -> int:
        """Steps of a clip; 0 when it is shorter than one step's receptive field."""
        return max(0, (num_samples - self.receptive) // self.stride + 1)

    def num_samples(self, num_steps: int) -> int:
        """Fewest samples that give ``num_steps``."""
        return (num_steps - 1) * self.stride + self.receptive

    def times_s(self, num_steps: int, sample_rate_hz: int) -> np.ndarray:
        """(num_steps,) float32: the middle of what each step sees."""
        middles = np.arange(num_steps) * self.stride + self.receptive / 2
        return (middles / sample_rate_hz).astype(np.float32)


@dataclass(frozen=True)
class Window:
    """Steps [first, last) are computed together; of these [keep_first, keep_last) are kept."""

    first: int
    last: int
    keep_first: int
    keep_last: int

    @property
    def num_steps(self) -> int:
        return self.last - self.first

    @property
    def kept(self) -> slice:
        """The kept steps, counted from the window's first."""
        return slice(self.keep_first - self.first, self.keep_last - self.first)


def plan_windows(num_steps: int, size: int, overlap: int) -> list[Window]:
    """Windows of at most ``size`` steps whose kept parts are the clip, each step once and in order.

    A kept step has at least ``overlap`` steps of context on either side, or all that the clip has. Kept parts
    are equally long, but for rounding: no window is a mere remainder. A clip of at most ``size`` steps is one
    window.
    """
    if num_steps <= size:
        return [Window(0, num_steps, 0, num_steps)]
    count = ceil(num_steps / (size - 2 * overlap))
    bounds = [round(index * num_steps / count) for index in range(count + 1)]
    return [
        Window(max(0, start - overlap), min(num_steps, stop + overlap), start, stop)
        for start, stop in pairwise(bounds)
    ]
