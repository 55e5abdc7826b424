"""The timing of the steps of a convolutional speech model, and the windows into which a long clip is cut."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

import numpy as np


@dataclass(frozen=True)
class StepGeometry:
    """A stack of unpadded convolutions, in samples: step i covers [i·stride, i·stride + receptive)."""

    receptive: int
    stride: int

    @classmethod
    def of(cls, kernels: Sequence[int], strides: Sequence[int]) -> "StepGeometry":
        receptive, stride = 1, 1
        for kernel, step in zip(kernels, strides, strict=True):
            # The stride so far is the distance of two inputs of this layer, in samples.
            receptive += (kernel - 1) * stride
            stride *= step
        return cls(receptive, stride)

    def num_steps(self, num_samples: int) -> int:
        """Return the number of steps of a clip; 0 if it is shorter than one step's receptive field."""
        return max(0, (num_samples - self.receptive) // self.stride + 1)

    def num_samples(self, num_steps: int) -> int:
        """Return the smallest number of samples that gives ``num_steps``."""
        return (num_steps - 1) * self.stride + self.receptive

    def times_s(self, num_steps: int, sample_rate_hz: int) -> np.ndarray:
        """Return the middle of each step's receptive field in seconds, (num_steps,) float32."""
        middles = np.arange(num_steps) * self.stride + self.receptive / 2
        return (middles / sample_rate_hz).astype(np.float32)


@dataclass(frozen=True)
class Window:
    """A window of steps [first, last), computed together; [keep_first, keep_last) of them are kept."""

    first: int
    last: int
    keep_first: int
    keep_last: int

    @property
    def num_steps(self) -> int:
        return self.last - self.first

    @property
    def kept(self) -> slice:
        """The kept steps, relative to the first of the window."""
        return slice(self.keep_first - self.first, self.keep_last - self.first)


def plan_windows(num_steps: int, size: int, overlap: int) -> list[Window]:
    """Plan windows of at most ``size`` steps whose kept parts cover the clip, each step once and in order.

    A kept step has at least ``overlap`` steps of context on either side, or all that the clip has. Kept parts have
    equal lengths up to rounding, so that no window is a short remainder. A clip of at most ``size`` steps is one
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
