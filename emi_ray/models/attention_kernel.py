"""The loops of :mod:`emi_ray.models.flat_attention`, compiled by numba at the first call.

Each step is converted to float32, scored, and added to its clip's sum while it is still in the first-level cache, so
the features are read from memory only once in the forward pass and once in the backward pass. The softmax takes one
pass with a running maximum (Milakov and Gimelshein 2018, "Online normalizer calculation for softmax").

The compiler may reorder sums (``reassoc``), which allows SIMD instructions. The order is the same at every call, so
results are reproducible.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

# Not "ninf" and "nnan": the running maximum starts at minus infinity, which they would make undefined.
_FAST = {"reassoc", "contract", "nsz"}


def _compiled(function: Callable[..., Any]) -> Any:
    """Compile ``function`` at its first call, and cache the machine code on disk if the cache folder is writable."""
    try:
        return njit(fastmath=_FAST, nogil=True, cache=True)(function)
    except RuntimeError:  # numba found no writable cache folder
        return njit(fastmath=_FAST, nogil=True)(function)


@intrinsic
def _widen_one(_typing: Any, value: Any) -> Any:
    """Return a float32 unchanged, and the bits of a float16 (as uint16) converted to float32."""

    def build(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        (given,) = arguments
        if value == types.float32:
            return given
        return builder.fpext(builder.bitcast(given, ir.HalfType()), ir.FloatType())

    return types.float32(value), build


_widen: Any = _widen_one  # the type checker would require numba's typing context as first argument


@njit(fastmath=_FAST, inline="always")
def _read_step(given: np.ndarray, direction: np.ndarray, step: np.ndarray) -> Any:
    """Convert one step (D,) to float32 into ``step``; returns its dot product with ``direction`` (D,)."""
    along = np.float32(0)
    for column in range(len(direction)):
        value = _widen(given[column])
        step[column] = value
        along += value * direction[column]
    return along


@_compiled
def pool(
    values: np.ndarray,
    starts: np.ndarray,
    lengths: np.ndarray,
    weight: np.ndarray,
    pooled: np.ndarray,
    shares: np.ndarray,
) -> None:
    """Compute the softmax-weighted sum of the steps of each clip.

    Args:
        values: (N, D) steps as float32, or as the bits of float16 in uint16.
        starts, lengths: (B,) int64, the first step and the number of steps of each clip.
        weight: (D,) float32; the score of a step is its dot product with it.
        pooled: (B, D) float32 zeros; receives the sums.
        shares: (sum of lengths,) float32; receives the softmax weights of the steps, clip after clip.
    """
    width = weight.shape[0]
    step = np.empty(width, np.float32)
    stop = 0
    for clip in range(len(starts)):
        start, stop = stop, stop + lengths[clip]
        scores, total_of = shares[start:stop], pooled[clip]
        top, mass = np.float32(-np.inf), np.float32(0)
        for place in range(lengths[clip]):
            score = _read_step(values[starts[clip] + place], weight, step)
            # A larger maximum scales down all that was summed so far. At the first step, exp(-inf) makes the factor
            # 0.
            if score > top:
                shrink = np.exp(top - score)
                top, mass = score, mass * shrink
                for column in range(width):
                    total_of[column] *= shrink
            share = np.exp(score - top)
            mass += share
            for column in range(width):
                total_of[column] += share * step[column]
            scores[place] = score
        for place in range(lengths[clip]):
            scores[place] = np.exp(scores[place] - top) / mass
        if lengths[clip]:
            for column in range(width):
                total_of[column] /= mass


@_compiled
def pull_back(
    values: np.ndarray,
    starts: np.ndarray,
    lengths: np.ndarray,
    shares: np.ndarray,
    gradient: np.ndarray,
    centres: np.ndarray,
    result: np.ndarray,
) -> None:
    """Compute the gradient of the loss with respect to ``weight``, the backward pass of ``pool``.

    With g the gradient of the loss with respect to a clip's pooled vector, it is the sum over all steps of
    share x (step·g - pooled·g) x step, which follows from the derivative of the softmax.

    Args:
        values, starts, lengths, shares: the arguments and the result of ``pool``.
        gradient: (B, D) float32, gradient of the loss with respect to ``pooled``.
        centres: (B,) float32, pooled·g of each clip.
        result: (D,) float32 zeros; receives the gradient.
    """
    width = result.shape[0]
    step = np.empty(width, np.float32)
    stop = 0
    for clip in range(len(starts)):
        start, stop = stop, stop + lengths[clip]
        for place in range(lengths[clip]):
            along = _read_step(values[starts[clip] + place], gradient[clip], step)
            factor = shares[start + place] * (along - centres[clip])
            for column in range(width):
                result[column] += factor * step[column]
