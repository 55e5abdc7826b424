"""Statistics over a window of steps around each step. Beyond the ends, the first and the last step are repeated.

These few lines replace ``scipy.ndimage``, whose import would cost every process half a second.
"""

import numpy as np


def mean_around(values: np.ndarray, width: int) -> np.ndarray:
    """Return the mean of (T, …) over the ``width`` (odd) steps around each step, float64."""
    half = width // 2
    edges = [(half + 1, half)] + [(0, 0)] * (values.ndim - 1)
    # The extra element at the front makes every window a difference of two cumulated sums.
    total = np.cumsum(np.pad(values.astype(np.float64), edges, mode="edge"), axis=0)
    mean: np.ndarray = (total[width:] - total[:-width]) / width
    return mean


def std_around(values: np.ndarray, width: int) -> np.ndarray:
    """Return the standard deviation of (T, …) over the ``width`` (odd) steps around each step, float64."""
    # Without the overall mean, the difference of the two squares loses fewer digits.
    values = values.astype(np.float64) - values.mean(axis=0)
    return np.sqrt(np.maximum(mean_around(values**2, width) - mean_around(values, width) ** 2, 0))


def slope_around(values: np.ndarray) -> np.ndarray:
    """Return the least-squares slope per step of (T, …) over the five steps around each step."""
    padded = np.pad(values, [(2, 2)] + [(0, 0)] * (values.ndim - 1), mode="edge")
    slope: np.ndarray = (2 * (padded[4:] - padded[:-4]) + padded[3:-1] - padded[1:-3]) / 10
    return slope
