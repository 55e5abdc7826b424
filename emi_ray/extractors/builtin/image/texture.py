"""Texture of grey images (T, S, S): gradients, local binary patterns, low frequencies."""

import cv2
import numpy as np

HOG_SIZE = 96
HOG_DIM = 288
LBP_BINS = 10
"""Nine uniform patterns with 0 to 8 brighter neighbours, and one bin for all that are not uniform."""

_NEIGHBOURS = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))
_LBP_MARGIN = 3


def gradient_histograms(grey: np.ndarray) -> np.ndarray:
    """Compute histograms of oriented gradients (Dalal & Triggs 2005) of ``grey`` (T, 96, 96) uint8: (T, 288).

    6 × 6 cells of 16 pixels with 8 unsigned directions, normalised in blocks of 2 × 2 cells; order: block column,
    block row, cell column, cell row, direction. Values are in [0, 1].
    """
    hog = cv2.HOGDescriptor((HOG_SIZE, HOG_SIZE), (32, 32), (32, 32), (16, 16), 8)
    return np.stack([np.asarray(hog.compute(picture)).reshape(-1) for picture in grey])


def binary_patterns(grey: np.ndarray, grid: int) -> np.ndarray:
    """Compute histograms of rotation-invariant uniform local binary patterns (Ojala et al. 2002) of ``grey``.

    A neighbour counts as brighter if it exceeds the centre by ``_LBP_MARGIN`` grey levels, so that noise does not
    turn flat skin into a pattern.

    Returns:
        (T, grid · grid · 10): shares of the patterns in each cell, row by row; the shares of a cell sum to one.
    """
    num_frames, height, width = grey.shape
    signed = grey.astype(np.int16)
    centre = signed[:, 1:-1, 1:-1] + _LBP_MARGIN
    codes = np.zeros(centre.shape, np.uint8)
    for bit, (down, right) in enumerate(_NEIGHBOURS):
        neighbour = signed[:, 1 + down : height - 1 + down, 1 + right : width - 1 + right]
        codes |= (neighbour >= centre).astype(np.uint8) << np.uint8(bit)
    cell = (_cell_index(height - 2, grid)[:, None] * grid + _cell_index(width - 2, grid)).astype(np.int32)
    frame = np.arange(num_frames, dtype=np.int32)[:, None, None] * (grid * grid)
    index = (frame + cell) * LBP_BINS + _uniform_patterns()[codes]
    counts = np.bincount(index.ravel(), minlength=num_frames * grid * grid * LBP_BINS)
    counts = counts.reshape(num_frames, grid * grid, LBP_BINS)
    return (counts / counts.sum(axis=2, keepdims=True)).reshape(num_frames, -1)


def low_frequencies(pictures: np.ndarray, order: int) -> np.ndarray:
    """Compute the lowest ``order`` × ``order`` coefficients, without the mean, of the orthonormal 2-D cosine
    transform.

    Coefficient (u, v) of an image of P pixels is scaled by (1 + u + v) / √P, which compensates for the usual
    decrease of energy with frequency: for an image of unit variance all are O(1).

    Args:
        pictures: (T, H, W) float.

    Returns:
        (T, order² − 1), row by row.
    """
    _, height, width = pictures.shape
    across = np.einsum("thw,vw->thv", pictures, _cosines(order, width))
    both = np.einsum("thv,uh->tuv", across, _cosines(order, height))
    rank = np.arange(order)
    scale = (1 + rank[:, None] + rank) / np.sqrt(height * width)
    return (both * scale).reshape(len(pictures), -1)[:, 1:]


def _uniform_patterns() -> np.ndarray:
    """Return the bin of each of the 256 patterns, (256,) int32."""
    bits = (np.arange(256)[:, None] >> np.arange(8)) & 1
    uniform = np.sum(bits != np.roll(bits, 1, axis=1), axis=1) <= 2
    return np.where(uniform, bits.sum(axis=1), LBP_BINS - 1).astype(np.int32)


def _cell_index(size: int, grid: int) -> np.ndarray:
    return np.arange(size) * grid // size


def _cosines(order: int, size: int) -> np.ndarray:
    """Return the orthonormal DCT-II basis, (order, size) float32."""
    basis = np.cos(np.pi * np.arange(order)[:, None] * (np.arange(size) + 0.5) / size) * np.sqrt(2 / size)
    basis[0] /= np.sqrt(2)
    return basis.astype(np.float32)
