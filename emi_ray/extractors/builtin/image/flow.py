"""Motion of the face between frames: dense optical flow and its statistics."""

from collections.abc import Iterator
from itertools import pairwise

import cv2
import numpy as np

from emi_ray.extractors.builtin.image.regions import REGIONS, cut, face_windows, shrink, to_grey
from emi_ray.media.clip import Faces

SIDE_PX = 64
GRID = 4
DIRECTIONS = 8
RIGID_NAMES = ("shift_across", "shift_down", "growth", "rotation")
WHOLE_NAMES = (
    "speed_mean",
    "speed_std",
    "speed_p90",
    "speed_max",
    "expansion",
    "shear",
    "asymmetry",
    "change",
)
CELL_NAMES = ("across", "down", "speed", "divergence")
REGION_NAMES = ("down", "speed", "widening", "opening")
FLOW_NAMES = (
    *RIGID_NAMES,
    *(f"{name}_{cell}" for name in CELL_NAMES for cell in range(GRID * GRID)),
    *(f"{region}_{name}" for region in REGIONS for name in REGION_NAMES),
    *(f"direction_{index}" for index in range(DIRECTIONS)),
    *WHOLE_NAMES,
)

_CHUNK_FRAMES = 64
_UNIT = 0.05


def step_times(faces: Faces) -> np.ndarray:
    """Return the middle of each pair of neighbouring frames, (T − 1,) float32."""
    times = faces.timestamps_s.astype(np.float32)
    return (times[1:] + times[:-1]) / 2


def step_durations(faces: Faces) -> np.ndarray:
    """Return the seconds between neighbouring frames, (T − 1,), clipped to [1/60, 1]."""
    return np.clip(np.diff(faces.timestamps_s.astype(np.float64)), 1 / 60, 1)


def face_flows(faces: Faces, face_share: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Compute Farnebäck's optical flow (2003) between neighbouring frames of one run, in chunks.

    Yields:
        Velocities (P, 2, 64, 64) float32, across and down, in sides of the face window per second; and the mean
        absolute change of the grey level (P,), as a share of the whole range per second.
    """
    durations = step_durations(faces)
    for first in range(0, len(durations), _CHUNK_FRAMES):
        # One frame more than pairs, since the last frame of a chunk is also the first of the next one.
        windows = face_windows(faces.crops[first : first + _CHUNK_FRAMES + 1], face_share)
        rate = (1 / durations[first : first + _CHUNK_FRAMES]).astype(np.float32)
        grey = shrink(to_grey(windows), SIDE_PX, SIDE_PX)
        flows = np.stack([cv2.split(_farneback(before, after)) for before, after in pairwise(grey)])
        change = np.abs(np.diff(grey.astype(np.float32), axis=0)).mean(axis=(1, 2)) / 255
        yield flows * (rate / SIDE_PX)[:, None, None, None], change * rate


def compress(velocity: np.ndarray) -> np.ndarray:
    """Return asinh(velocity / 0.05): linear for slow motion, logarithmic for fast motion, O(1) for faces."""
    return np.arcsinh(velocity / _UNIT)


def flow_statistics(velocity: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Compute ``FLOW_NAMES`` from velocities (P, 2, H, W) and grey-level changes (P,): (P, len(FLOW_NAMES)).

    The rigid part (least-squares shift, growth and rotation) is measured and subtracted. All other statistics
    describe the rest, which is the motion of the face itself. Velocities are compressed.
    """
    rigid, own = _split(velocity)
    across, down = own[:, 0], own[:, 1]
    speed = np.sqrt(across**2 + down**2)
    widening, across_by_y = _gradients(across)
    down_by_x, opening = _gradients(down)
    divergence, curl = widening + opening, down_by_x - across_by_y
    cells = [_cell_means(field) for field in (across, down, speed, divergence)]
    parts = [
        cut(field, box).mean(axis=(1, 2))[:, None]
        for box in REGIONS.values()
        for field in (down, speed, widening, opening)
    ]
    whole = _whole(speed, divergence, curl)
    blocks = [rigid, *cells, *parts, _directions(across, down, speed), whole, change[:, None]]
    return compress(np.concatenate(blocks, axis=1))


def _whole(speed: np.ndarray, divergence: np.ndarray, curl: np.ndarray) -> np.ndarray:
    """Compute ``WHOLE_NAMES`` except the last, (P, 7)."""
    flat, half = speed.reshape(len(speed), -1), speed.shape[2] // 2
    columns = [
        flat.mean(axis=1),
        flat.std(axis=1),
        np.percentile(flat, 90, axis=1),
        flat.max(axis=1) / 2,
        np.abs(divergence).mean(axis=(1, 2)) / 4,
        np.abs(curl).mean(axis=(1, 2)) / 4,
        speed[:, :, :half].mean(axis=(1, 2)) - speed[:, :, half:].mean(axis=(1, 2)),
    ]
    return np.stack(columns, axis=1)


def _farneback(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    flow = cv2.calcOpticalFlowFarneback(before, after, np.empty(0), 0.5, 3, 9, 2, 5, 1.1, 0)
    return np.asarray(flow)


def _split(velocity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return shift across, shift down, growth and rotation per second, (P, 4), and the velocity without them."""
    height, width = velocity.shape[2:]
    y, x = np.meshgrid(_centred(height), _centred(width), indexing="ij")
    # Growth moves a pixel along (x, y) from the centre, rotation along (-y, x). Both are orthogonal to a shift.
    modes = np.stack([np.stack([x, y]), np.stack([-y, x])])
    shift = velocity.mean(axis=(2, 3))
    # The modes are orthogonal and equally long, so the least-squares coefficients are simple projections.
    turn = np.stack([np.einsum("pchw,chw->p", velocity, mode) for mode in modes], axis=1) / np.sum(
        x**2 + y**2
    )
    growth, rotation = turn.T[:, :, None, None, None]
    own = velocity - shift[:, :, None, None] - growth * modes[0] - rotation * modes[1]
    return np.concatenate([shift, turn], axis=1), own


def _centred(size: int) -> np.ndarray:
    """Return the positions of ``size`` pixels in a window of side 1, relative to its centre."""
    return ((np.arange(size) + 0.5) / size - 0.5).astype(np.float32)


def _gradients(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return central differences across and down of (P, H, W), per side of the window."""
    down, across = np.gradient(values, axis=(1, 2))
    return across * values.shape[2], down * values.shape[1]


def _cell_means(values: np.ndarray) -> np.ndarray:
    """Return the means of (P, H, W) on a grid: (P, GRID²)."""
    num_pairs, height, width = values.shape
    cells = values.reshape(num_pairs, GRID, height // GRID, GRID, width // GRID)
    return cells.mean(axis=(2, 4)).reshape(num_pairs, -1)


def _directions(across: np.ndarray, down: np.ndarray, speed: np.ndarray) -> np.ndarray:
    """Return the speed in each of eight directions (right, down right, down, …), times eight, averaged over all
    pixels.
    """
    # In units of a sector, 45 degrees.
    turn = np.arctan2(down, across) * np.float32(DIRECTIONS / 2 / np.pi)
    sector = np.rint(turn).astype(np.int32) % DIRECTIONS
    # One bincount serves all pairs, because each pair has its own range of eight indices.
    pair = np.arange(len(speed), dtype=np.int32)[:, None, None] * DIRECTIONS
    total = np.bincount((pair + sector).ravel(), weights=speed.ravel(), minlength=len(speed) * DIRECTIONS)
    return total.reshape(len(speed), DIRECTIONS) / speed[0].size * DIRECTIONS
