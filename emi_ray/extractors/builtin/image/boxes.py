"""Motion of the face's box within the frame."""

import numpy as np

from emi_ray.extractors.builtin.image.flow import step_durations
from emi_ray.media.clip import Faces

BOX_NAMES = (
    *("box_across", "box_down", "box_growth", "box_speed"),
    *("box_acceleration_across", "box_acceleration_down", "box_acceleration"),
    *("box_x", "box_y", "box_size", "box_known"),
)


def box_dynamics(faces: Faces) -> np.ndarray:
    """Compute ``BOX_NAMES`` for each pair of neighbouring frames of one run: (T − 1, 11).

    Velocities are asinh(4 v) with v in box sides per second (growth: e-folds per second), accelerations asinh(a /
    4). They are followed by the position of the centre, −1 to 1 over the frame, and log2 of four times the box's
    share of the frame's height. All are zero if one of the two boxes is unknown, as with existing crops.
    """
    boxes = faces.boxes.astype(np.float64)
    known = np.all(np.isfinite(boxes) & (boxes > (-np.inf, -np.inf, 0, 0)), axis=1)
    boxes = np.where(known[:, None], boxes, (0.25, 0.25, 0.5, 0.5))
    durations = step_durations(faces)[:, None]
    centre, size = boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]
    middle_size = (size[1:] + size[:-1]) / 2
    velocity = np.diff(centre, axis=0) / middle_size / durations
    growth = np.diff(np.log(size).mean(axis=1, keepdims=True), axis=0) / durations
    acceleration = np.diff(velocity, axis=0, prepend=velocity[:1]) / durations
    both = known[1:] & known[:-1]
    steady = both & np.append(False, both[:-1])
    place = np.column_stack([2 * centre[1:] - 1, np.log2(4 * size[1:, 1:])])
    columns = [
        np.arcsinh(4 * np.column_stack([velocity, growth, _length(velocity)])),
        np.arcsinh(np.column_stack([acceleration, _length(acceleration)]) / 4) * steady[:, None],
        place,
        np.ones_like(durations),
    ]
    return np.concatenate(columns, axis=1) * both[:, None]


def _length(vectors: np.ndarray) -> np.ndarray:
    """Return the Euclidean length of each row."""
    return np.sqrt(np.sum(vectors**2, axis=1))
