"""Choose the precision in which features are stored: half precision if it keeps their variation, otherwise single.

In float16 a feature of 20,000 ± 1 is rounded to a multiple of 16, and one of 1e-8 to zero. Such errors are small
relative to the value, but as large as the variation, which is all that a model can learn from. Therefore the
rounding error is compared with the spread of each dimension.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

MAX_LOSS = 0.02
"""Largest permitted rounding error of a dimension: its root mean square relative to the standard deviation."""

Precision = Literal["float16", "float32"]

_MAGNITUDE, _INFINITY = 0x7FFF, 0x7C00
"""Mask of a float16's bits without the sign, and the smallest masked value that is not finite."""

_CHUNK = 1 << 16


def is_finite(values: np.ndarray) -> bool:
    """Return whether all values of a contiguous array are finite; for float16, many times as fast as
    ``np.isfinite``.
    """
    if values.dtype != np.float16:
        return bool(np.isfinite(values).all())
    # In chunks, because masking a large array as a whole spends its time on pages of new memory.
    bits = values.reshape(-1).view(np.uint16)
    chunks = (bits[start : start + _CHUNK] for start in range(0, len(bits), _CHUNK))
    return all((chunk & _MAGNITUDE).max() < _INFINITY for chunk in chunks)


@dataclass
class Spread:
    """Running spread of each dimension, and the error that rounding would cause.

    Both are exact to float64 for any mean, because deviations are relative to the first step.
    """

    _count: int = 0
    _first: np.ndarray = field(default_factory=lambda: np.empty(0))
    _sums: dict[str, np.ndarray] = field(default_factory=dict)
    _largest: float = 0.0

    def add(self, values: np.ndarray) -> None:
        """Add steps (T, D) of any floating-point type. Steps that are not finite or exceed float32 are ignored."""
        exact = values.astype(np.float64)
        # The comparison is false for NaN too.
        exact = exact[(np.abs(exact) <= np.finfo(np.float32).max).all(axis=1)]
        if not len(exact):
            return
        if not self._count:
            self._first = exact[0]
            self._sums = {name: np.zeros(exact.shape[1]) for name in ("x", "xx", "float16", "float32")}
        self._count += len(exact)
        self._largest = max(self._largest, float(np.abs(exact).max()))
        moved = exact - self._first
        with np.errstate(over="ignore", invalid="ignore"):
            self._sums["x"] += moved.sum(axis=0)
            self._sums["xx"] += np.square(moved).sum(axis=0)
            for name in ("float16", "float32"):
                self._sums[name] += np.square(exact - exact.astype(name)).sum(axis=0)

    def loss(self, precision: Precision) -> tuple[float, int]:
        """Return the rounding error relative to the spread of the worst dimension, and the index of that dimension.

        The error is infinite if a value exceeds the range, and 0 if nothing varies.
        """
        if self._largest > float(np.finfo(precision).max):
            return float("inf"), -1
        if self._count < 2:
            return 0.0, 0
        variance = self._sums["xx"] / self._count - np.square(self._sums["x"] / self._count)
        error = self._sums[precision] / self._count
        # A variance within the rounding error of float64 counts as zero: a constant dimension has nothing to lose.
        is_varying = variance > 1e-24 * np.square(np.abs(self._first) + self._largest)
        share = np.sqrt(np.divide(error, variance, out=np.zeros_like(error), where=is_varying))
        return float(share.max()), int(share.argmax())

    @property
    def precision(self) -> Precision | None:
        """The lowest precision that keeps the variation of all dimensions; None if single precision does not."""
        for precision in ("float16", "float32"):
            if self.loss(precision)[0] <= MAX_LOSS:
                return precision
        return None

    def describe(self, dimension: int) -> str:
        """Describe a dimension by its mean and standard deviation."""
        mean = self._sums["x"][dimension] / self._count
        variance = self._sums["xx"][dimension] / self._count - mean**2
        return (
            f"dimension {dimension} is {self._first[dimension] + mean:g} ± {np.sqrt(max(variance, 0.0)):.2g}"
        )


def spread_of(arrays: Iterable[np.ndarray]) -> Spread:
    """Return the spread of the steps of several clips, (T, D) each."""
    spread = Spread()
    for values in arrays:
        spread.add(values)
    return spread
