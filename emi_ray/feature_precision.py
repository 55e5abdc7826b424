"""In which precision features are kept: half precision where it keeps what they vary by, else single.

A feature that is 20,000 give or take 1 is a multiple of 16 in float16, and one of 1e-8 is zero: small against the
value, but all of the variation, which is all that a model can learn from. So the error of rounding is compared to the
spread of each dimension.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

MAX_LOSS = 0.02
"""Root mean square of the rounding errors of a dimension, over its standard deviation, that a precision may cost."""

Precision = Literal["float16", "float32"]


@dataclass
class Spread:
    """Running spread of each dimension, and what rounding would cost it.

    Both are exact to float64 whatever the mean: deviations are taken from the first step.
    """

    _count: int = 0
    _first: np.ndarray = field(default_factory=lambda: np.empty(0))
    _sums: dict[str, np.ndarray] = field(default_factory=dict)
    _largest: float = 0.0

    def add(self, values: np.ndarray) -> None:
        """Count steps (T, D) of any floating-point type, but for those that are not finite or beyond float32."""
        exact = values.astype(np.float64)
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
        """The worst dimension's rounding error over its spread, and which dimension that is.

        Infinite where a value is beyond the range; 0 where nothing varies.
        """
        if self._largest > float(np.finfo(precision).max):
            return float("inf"), -1
        if self._count < 2:
            return 0.0, 0
        variance = self._sums["xx"] / self._count - np.square(self._sums["x"] / self._count)
        error = self._sums[precision] / self._count
        is_varying = variance > 1e-24 * np.square(np.abs(self._first) + self._largest)
        share = np.sqrt(np.divide(error, variance, out=np.zeros_like(error), where=is_varying))
        return float(share.max()), int(share.argmax())

    @property
    def precision(self) -> Precision | None:
        """The least precision that keeps what all dimensions vary by; None where single precision does not."""
        for precision in ("float16", "float32"):
            if self.loss(precision)[0] <= MAX_LOSS:
                return precision
        return None

    def describe(self, dimension: int) -> str:
        """A dimension in words: its mean and its standard deviation."""
        mean = self._sums["x"][dimension] / self._count
        variance = self._sums["xx"][dimension] / self._count - mean**2
        return (
            f"dimension {dimension} is {self._first[dimension] + mean:g} ± {np.sqrt(max(variance, 0.0)):.2g}"
        )


def spread_of(arrays: Iterable[np.ndarray]) -> Spread:
    """The spread of the steps of several clips, (T, D) each."""
    spread = Spread()
    for values in arrays:
        spread.add(values)
    return spread
