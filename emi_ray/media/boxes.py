"""Boxes of faces over time (x, y, width, height, and the turn where it is known), and what is cut from a frame."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from emi_ray.media.detection import iou
from emi_ray.media.scaling import rescale

MIN_IOU = 0.2
"""Overlap of two boxes in successive sightings that makes them the same face."""
PATCH_SLACK = 1.3
"""Side of a patch, in sides of the crop to be cut from it: room for smoothing and interpolation."""
UPRIGHT_SLACK = 1.65
"""The same where the crop may be turned, by up to some twenty degrees."""
SMOOTHING = np.array([1, 4, 6, 4, 1]) / 16
"""Binomial weights of five successive boxes."""


@dataclass(frozen=True)
class Patch:
    """The part of a frame that starts at pixel ``corner`` (x, y), ``scale`` (x, y) times as large."""

    pixels: np.ndarray
    corner: np.ndarray
    scale: np.ndarray

    def crop(self, box: np.ndarray, margin: float, size_px: int, turn: float = 0.0) -> np.ndarray:
        """The square around ``box`` (x, y, width, height, in frame pixels), (size_px, size_px, 3), whose sides are
        turned by ``turn`` radians clockwise in the frame."""
        zoom = size_px / square_side(box, margin)
        cosine, sine = zoom * np.cos(turn), zoom * np.sin(turn)
        rotation = np.array([[cosine, sine], [-sine, cosine]]) / self.scale
        # Pixel centres lie at halves: that of the crop's first pixel is half a pixel from its edge.
        centre = (box[:2] + box[2:4] / 2 - self.corner) * self.scale - 0.5
        shift = (size_px - 1) / 2 - rotation @ centre
        matrix = np.column_stack([rotation, shift])
        return cv2.warpAffine(
            self.pixels, matrix, (size_px, size_px), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )


def cut_patch(image: np.ndarray, box: np.ndarray, crop_side: float, slack: float, size_px: int) -> Patch:
    """The surroundings of ``box``, ``slack`` crops wide, shrunk so that a crop of them has about ``size_px``."""
    half = crop_side * slack / 2
    centre = box[:2] + box[2:4] / 2
    left, top = np.maximum(centre - half, 0).astype(int)
    right, bottom = (centre + half).astype(int) + 1
    region = image[top:bottom, left:right]
    pixels = rescale(region, min(1.0, size_px / crop_side))
    scale = np.array(pixels.shape[1::-1]) / region.shape[1::-1]
    return Patch(pixels.copy() if pixels is region else pixels, np.array([left, top]), scale)


def square_side(box: np.ndarray, margin: float) -> float:
    """Side of the square crop around a box, with the margin added on each side."""
    return float(max(box[2], box[3])) * (1 + 2 * margin)


def link(known: Sequence[np.ndarray], boxes: np.ndarray) -> dict[int, int]:
    """Which of ``boxes`` (N, 4 or more) continues which of ``known``: greedily, largest overlap first."""
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
    """Boxes (T, 4 or more) for all times, linear in time between the ``known`` ones at ``times_s[detected]``."""
    return np.stack([np.interp(times_s, times_s[detected], column) for column in known.T], axis=1)


def resize_between(boxes: np.ndarray, times_s: np.ndarray, detected: np.ndarray) -> np.ndarray:
    """Boxes (T, 4 or more) that keep their centres; their size and turn, where ``detected`` is False, become linear
    in time between those of the detected ones, so that a face that is followed grows evenly."""
    centres = boxes[:, :2] + boxes[:, 2:4] / 2
    shapes = interpolate(times_s, detected, boxes[detected, 2:])
    return np.concatenate([centres - shapes[:, :2] / 2, shapes], axis=1)


def smooth(boxes: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Boxes (T, 4 or more) smoothed over successive ``frames``, never across a gap."""
    reach = len(SMOOTHING) // 2
    runs = np.split(boxes, np.flatnonzero(np.diff(frames) > 1) + 1)
    padded = [np.pad(run, ((reach, reach), (0, 0)), "edge") for run in runs]
    return np.concatenate(
        [np.stack([np.convolve(column, SMOOTHING, "valid") for column in run.T], axis=1) for run in padded]
    )
