"""The loops of :mod:`emi_ray.models.flat_attention`, compiled by numba at the first call.

A step is widened to float32 and scored, then added to its clip's sum from the first cache: one reading of the
features a direction. Softmax in one pass, with the running maximum of Milakov and Gimelshein (2018), "Online
normalizer calculation for softmax".

Sums may be taken in any order (``reassoc``), which is what lets a processor take them sixteen at a time; the
order is the same at every call.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

_FAST = {"reassoc", "contract", "nsz"}


def _compiled(function: Callable[..., Any]) -> Any:
    """Compiled at the first call, and kept on disk for the next process where a folder can be written."""
    try:
        return njit(fastmath=_FAST, nogil=True, cache=True)(function)
    except RuntimeError:  # numba finds no place for its cache
        return njit(fastmath=_FAST, nogil=True)(function)


@intrinsic
def _widen_one(_typing: Any, value: Any) -> Any:
    """A float32 as it is, the bits of a float16 as a float32."""

    def build(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        (given,) = arguments
        if value == types.float32:
            return given
        return builder.fpext(builder.bitcast(given, ir.HalfType()), ir.FloatType())

    return types.float32(value), build


_widen: Any = _widen_one  # what the type checker sees has one argument more


@njit(fastmath=_FAST, inline="always")
def _read_step(given: np.ndarray, direction: np.ndarray, step: np.ndarray) -> Any:
    """Widen one step (D,) into ``step``; returns its product with ``direction`` (D,)."""
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
    """Each clip's softmax-weighted sum of steps.

    Args:
        values: (N, D) float32, or the bits of float16 as uint16.
        starts, lengths: (B,) int64.
        weight: (D,) float32.
        pooled: (B, D) float32, zeros; the sums are written here.
        shares: (sum of lengths,) float32; the weights of the steps are written here, clip after clip.
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
    """d/d weight = sum over steps of share x (step·g - pooled·g) x step, for each clip's gradient g.

    Args:
        values, starts, lengths, shares: as ``pool`` took and gave them.
        gradient: (B, D) float32, of the loss by ``pooled``.
        centres: (B,) float32, pooled·g of each clip.
        result: (D,) float32, zeros; d/d weight is written here.
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
