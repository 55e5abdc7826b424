"""Face boxes over time (x, y, width, height, and the rotation if it is known), and crops of frames."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from emi_ray.media.clip import split_runs
from emi_ray.media.detection import iou
from emi_ray.media.scaling import rescale

MIN_IOU = 0.2
"""Overlap (intersection over union) from which the boxes of two successive sightings count as the same face."""
PATCH_SLACK = 1.3
"""Side of a patch relative to the crop to be cut from it, with room for smoothing and interpolation."""
UPRIGHT_SLACK = 1.65
"""The same for crops that may be rotated, by up to about twenty degrees."""
SMOOTHING = np.array([1, 4, 6, 4, 1]) / 16
"""Binomial weights of five successive boxes."""


@dataclass(frozen=True)
class Patch:
    """A part of a frame.

    Attributes:
        pixels: (h, w, 3) uint8 RGB.
        corner: (x, y) of the first pixel in the frame.
        scale: (x, y) size of the patch relative to the frame.
    """

    pixels: np.ndarray
    corner: np.ndarray
    scale: np.ndarray

    def crop(self, box: np.ndarray, margin: float, size_px: int, turn: float = 0.0) -> np.ndarray:
        """Cut the square around ``box``, rotated by ``turn``, to an image (size_px, size_px, 3).

        Args:
            box: x, y, width, height in pixels of the frame.
            margin: margin on each side, in sides of the box.
            turn: clockwise rotation of the square in the frame, in radians.
        """
        zoom = size_px / square_side(box, margin)
        cosine, sine = zoom * np.cos(turn), zoom * np.sin(turn)
        # Columns are divided by the scale, because coordinates in the patch are those in the frame times the scale.
        rotation = np.array([[cosine, sine], [-sine, cosine]]) / self.scale
        # The centre of a pixel is at +0.5, so the crop's first pixel centre is half a pixel from its edge.
        centre = (box[:2] + box[2:4] / 2 - self.corner) * self.scale - 0.5
        shift = (size_px - 1) / 2 - rotation @ centre
        matrix = np.column_stack([rotation, shift])
        return cv2.warpAffine(
            self.pixels, matrix, (size_px, size_px), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )


def cut_patch(image: np.ndarray, box: np.ndarray, crop_side: float, slack: float, size_px: int) -> Patch:
    """Cut the surroundings of ``box``, ``slack`` crops wide, and shrink them so that a crop has about ``size_px``
    pixels.
    """
    half = crop_side * slack / 2
    centre = box[:2] + box[2:4] / 2
    left, top = np.maximum(centre - half, 0).astype(int)
    right, bottom = (centre + half).astype(int) + 1
    region = image[top:bottom, left:right]
    pixels = rescale(region, min(1.0, size_px / crop_side))
    scale = np.array(pixels.shape[1::-1]) / region.shape[1::-1]
    # A view of the region would keep the whole frame in memory.
    return Patch(pixels.copy() if pixels is region else pixels, np.array([left, top]), scale)


def square_side(box: np.ndarray, margin: float) -> float:
    """Return the side of the square crop around a box, with the margin on each side."""
    return float(max(box[2], box[3])) * (1 + 2 * margin)


def link(known: Sequence[np.ndarray], boxes: np.ndarray) -> dict[int, int]:
    """Match ``boxes`` (N, 4 or more) to ``known`` boxes greedily, the largest overlap first.

    Returns:
        Index in ``known`` → index in ``boxes``.
    """
    # Greedy matching suffices: there are few faces, and they hardly overlap each other.
    overlaps = [
        (overlap, index, candidate)
        for index, box in enumerate(known)
        for candidate, other in enumerate(boxes)
        if (overlap := iou(box, other)) >= MIN_IOU
    ]
    linked: dict[int, int] = {}
    for _, index, candidate in sorted(overlaps, reverse=True):
        if index not in linked and candidate not in linked.values():
            linked[index] = candidate
    return linked


def interpolate(times_s: np.ndarray, detected: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return boxes (T, 4 or more) for all times, linear in time between the ``known`` ones at
    ``times_s[detected]``.
    """
    return np.stack([np.interp(times_s, times_s[detected], column) for column in known.T], axis=1)


def run_starts(frames: np.ndarray, times_s: np.ndarray, max_gap_s: float, joints: list[int]) -> np.ndarray:
    """Return (T,) bool, True at the first index, at ``joints``, and after a gap: a missing frame, or a time between
    two frames that exceeds both ``max_gap_s`` and one and a half times the usual one.
    """
    steps_s = np.diff(times_s)
    # With one frame per second or fewer, every step would exceed the limit.
    usual_s = float(np.median(steps_s)) if len(steps_s) else 0.0
    gaps = (np.diff(frames) > 1) | (steps_s > max(max_gap_s, 1.5 * usual_s))
    starts = np.concatenate([[True], gaps])
    starts[joints] = True
    return starts


def steady(boxes: np.ndarray, times_s: np.ndarray, detected: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Interpolate sizes and rotations of boxes (T, 4 or more), and smooth the boxes, in each run separately.

    Args:
        detected: (T,) bool, where size and rotation are known: at least once in each run.
        starts: (T,) bool, True where a new run begins, because there is a gap or a cut before it.
    """
    runs = split_runs(starts, boxes, times_s, detected)
    return np.concatenate([smooth(resize_between(*run)) for run in runs])


def resize_between(boxes: np.ndarray, times_s: np.ndarray, detected: np.ndarray) -> np.ndarray:
    """Interpolate size and rotation of boxes (T, 4 or more) where ``detected`` is False, and keep their centres.

    Following a face by its appearance finds only its position. Linear interpolation of the size lets it change
    evenly. Before the first and after the last detection the size is constant. The rotation is interpolated along the
    shorter arc, so that it may exceed π in the result.
    """
    centres = boxes[:, :2] + boxes[:, 2:4] / 2
    known = np.concatenate([boxes[detected, 2:4], np.unwrap(boxes[detected, 4:], axis=0)], axis=1)
    shapes = interpolate(times_s, detected, known)
    return np.concatenate([centres - shapes[:, :2] / 2, shapes], axis=1)


def smooth(boxes: np.ndarray) -> np.ndarray:
    """Smooth the boxes (T, 4 or more) of successive frames."""
    # The ends are padded by repetition, so that the number of boxes stays the same.
    reach = len(SMOOTHING) // 2
    padded = np.pad(boxes, ((reach, reach), (0, 0)), "edge")
    return np.stack([np.convolve(column, SMOOTHING, "valid") for column in padded.T], axis=1)
