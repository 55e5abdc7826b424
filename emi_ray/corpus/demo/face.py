"""Draw a face. In its coordinates the head's centre is (0, 0), its half-height is 1, and y points down."""

from dataclasses import dataclass

import cv2
import numpy as np

from emi_ray.corpus.demo.appearance import Look
from emi_ray.corpus.demo.performance import Pose

_SHIFT = 4
"""Fractional bits of OpenCV's drawing coordinates, so that movements of less than a pixel are visible."""

_TURN = np.linspace(0, 2 * np.pi, 20, endpoint=False)
_CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1)
_HALF_TURN = np.linspace(0, np.pi, 9)
_TO_THE_SIDE = np.linspace(0, 1, 7)
_ACROSS = np.linspace(-1, 1, 13)

_WHITE = np.array([236.0, 234.0, 230.0])
_TEETH = np.array([226.0, 222.0, 214.0])
_MOUTH = np.array([58.0, 22.0, 24.0])
_LASHES = np.array([32.0, 24.0, 22.0])
_PUPIL = np.array([12.0, 12.0, 14.0])


@dataclass(frozen=True)
class VisionCues:
    """Shape of the face in standard deviations; one value per emotion, in the order of ``EMOTIONS``."""

    brow_height: float
    mouth_width: float
    brow_weight: float
    brow_slant: float
    eye_openness: float
    smile: float


def draw_frame(look: Look, cues: VisionCues, pose: Pose) -> np.ndarray:
    """Draw one frame, (SIDE_PX, SIDE_PX, 3) uint8 RGB."""
    face = _Drawing(look, pose)
    _draw_body(face)
    _draw_head(face)
    for side in (-1, 1):
        _draw_eye(face, cues, side)
        _draw_brow(face, cues, side)
    _draw_nose(face)
    _draw_mouth(face, cues)
    lit: np.ndarray = cv2.multiply(face.finish(), look.light, scale=1.0, dtype=cv2.CV_8U)
    return cv2.GaussianBlur(lit, (3, 3), 0.6)


@dataclass(frozen=True)
class _Stroke:
    points: np.ndarray
    colour: np.ndarray
    depth: float
    width: float | None


class _Drawing:
    """Strokes in face coordinates; :meth:`finish` converts them to pixels together, and draws them.

    A stroke with ``depth`` 1 is on the front of the face and slides over it as the head turns; one with 0 is on its
    outline.
    """

    def __init__(self, look: Look, pose: Pose) -> None:
        self.look = look
        self.pose = pose
        self._strokes: list[_Stroke] = []

    def fill(self, points: np.ndarray, colour: np.ndarray, depth: float = 1.0) -> None:
        """Fill the polygon ``points`` (P, 2)."""
        self._strokes.append(_Stroke(points, colour, depth, None))

    def line(self, points: np.ndarray, colour: np.ndarray, width: float, depth: float = 1.0) -> None:
        """Draw the open line ``points`` (P, 2), ``width`` in half-heights of the head."""
        self._strokes.append(_Stroke(points, colour, depth, width))

    def finish(self) -> np.ndarray:
        scale = self.look.head_px * np.exp(self.pose.log_scale)
        image = self.look.background.copy()
        for stroke, points in zip(self._strokes, self._pixels(scale), strict=True):
            colour = [min(max(part, 0.0), 255.0) for part in stroke.colour.tolist()]
            if stroke.width is None:
                cv2.fillPoly(image, [points], colour, cv2.LINE_AA, _SHIFT)
            else:
                thickness = max(1, round(stroke.width * scale))
                cv2.polylines(image, [points], False, colour, thickness, cv2.LINE_AA, _SHIFT)
        return image

    def _pixels(self, scale: float) -> list[np.ndarray]:
        """Return the points of each stroke in pixels, as integers with ``_SHIFT`` fractional bits."""
        pose, sizes = self.pose, [len(stroke.points) for stroke in self._strokes]
        points = np.concatenate([stroke.points for stroke in self._strokes])
        depths = np.repeat([stroke.depth for stroke in self._strokes], sizes)[:, None]
        cos, sin = np.cos(pose.roll) * scale, np.sin(pose.roll) * scale
        slid = points + 0.6 * depths * (pose.x, pose.y)
        centre = self.look.centre_px + self.look.head_px * np.array([pose.x, pose.y])
        pixels = slid @ np.array([[cos, sin], [-sin, cos]]) + centre
        return np.split(np.rint(pixels * (1 << _SHIFT)).astype(np.int32), np.cumsum(sizes)[:-1])


def _draw_body(face: _Drawing) -> None:
    look = face.look
    if look.hair_style == "long":
        face.fill(_ellipse(0, 0.15, look.head_width + 0.24, 1.22), look.hair, depth=-0.3)
    if look.hair_style == "bun":
        face.fill(_ellipse(0, -1.12, 0.3, 0.26), look.hair, depth=-0.3)
    face.fill(_ellipse(0, 2.15, 1.45, 0.95), look.shirt, depth=-0.5)
    neck = np.array([[-0.3, 0.6], [0.3, 0.6], [0.36, 1.4], [-0.36, 1.4]])
    face.fill(neck, look.skin * 0.78, depth=-0.2)


def _draw_head(face: _Drawing) -> None:
    look = face.look
    for side in (-1, 1):
        face.fill(_ellipse(side * look.head_width, 0.0, 0.1, 0.2), look.skin * 0.86, depth=-0.2)
    face.fill(_ellipse(0, -0.1, look.head_width + 0.05, 0.98), look.hair, depth=-0.1)
    below = _CIRCLE[:, 1] > 0
    width = look.head_width * np.where(below, 1 - 0.14 * _CIRCLE[:, 1] ** 2, 1.0)
    height = np.where(below, 1 + 0.05 * face.pose.mouth_open, 0.9)
    face.fill(_CIRCLE * np.stack([width, height], axis=1), look.skin, depth=0.0)
    if look.hair_style != "cropped":
        top = np.stack([-1.03 * look.head_width * np.cos(_HALF_TURN), -0.95 * np.sin(_HALF_TURN)], axis=1)
        fringe = np.stack([0.7 * np.cos(_HALF_TURN), -0.62 - 0.1 * np.sin(_HALF_TURN)], axis=1)
        face.fill(np.concatenate([top, fringe]), look.hair, depth=0.0)


def _draw_eye(face: _Drawing, cues: VisionCues, side: int) -> None:
    x, y, skin = 0.31 * side, -0.14, face.look.skin
    face.fill(_ellipse(x + 0.03 * side, y + 0.27, 0.22, 0.15), skin * 1.05)
    face.fill(_ellipse(x, y - 0.02, 0.24, 0.18), skin * 0.84)
    face.fill(_ellipse(x, y, 0.20, 0.125), skin * 0.74)
    half_height = 0.078 * 2 ** min(0.65 * cues.eye_openness, 1.3)
    half_height *= 1 - face.pose.eyes_shut
    lid = np.stack([-0.16 * np.cos(_HALF_TURN), -half_height * np.sin(_HALF_TURN)], axis=1)
    upper, lower = lid + (x, y), lid * (1, -0.8) + (x, y)
    if half_height > 0.015:
        face.fill(np.concatenate([upper, lower[::-1]]), _WHITE)
        ball = min(0.082, half_height)
        face.fill(_ellipse(x, y, 0.082, ball), face.look.iris)
        face.fill(_ellipse(x, y, 0.036, min(0.036, ball)), _PUPIL)
    face.line(upper, _LASHES, 0.035)
    face.line(lower, skin * 0.6, 0.012)


def _draw_brow(face: _Drawing, cues: VisionCues, side: int) -> None:
    lift = face.pose.left_brow_lift if side < 0 else face.pose.right_brow_lift
    height = 0.41 + 0.07 * _bounded(cues.brow_height) + lift
    slant = 0.09 * _bounded(cues.brow_slant) * (1 - 2 * _TO_THE_SIDE)
    half_width = 0.03 * 2 ** (0.75 * _bounded(cues.brow_weight)) * (1.1 - 0.7 * _TO_THE_SIDE)
    y = -height - slant - 0.05 * np.sin(np.pi * _TO_THE_SIDE)
    x = side * (0.14 + 0.36 * _TO_THE_SIDE)
    outline = np.concatenate([np.stack([x, y - half_width], 1), np.stack([x, y + half_width], 1)[::-1]])
    face.fill(outline, np.minimum(face.look.hair, face.look.skin * 0.5) * 0.8)


def _draw_nose(face: _Drawing) -> None:
    skin, tip = face.look.skin, 0.2 - face.pose.nose_lift
    bridge = np.array([[-0.05, -0.3], [0.05, -0.3], [0.08, tip], [-0.08, tip]])
    face.fill(bridge, skin * 1.09, depth=1.1)
    nostrils = np.array([[-0.14, tip - 0.01], [-0.06, tip + 0.05], [0.06, tip + 0.05], [0.14, tip - 0.01]])
    face.line(nostrils, skin * 0.5, 0.04, depth=1.2)


def _draw_mouth(face: _Drawing, cues: VisionCues) -> None:
    skin, is_open = face.look.skin, face.pose.mouth_open
    half_width = 0.25 * 2 ** (0.48 * _bounded(cues.mouth_width)) * (1 - 0.1 * is_open)
    x = half_width * _ACROSS + face.pose.mouth_shift
    line = 0.52 - face.pose.mouth_lift + 0.125 * _bounded(cues.smile) * (0.4 - _ACROSS**2)
    gape = (0.015 + 0.12 * is_open) * (1 - _ACROSS**2)
    upper, lower = np.stack([x, line - 0.35 * gape], 1), np.stack([x, line + gape], 1)
    lips = skin * (0.78, 0.52, 0.52)
    face.fill(np.concatenate([upper, lower[::-1]]), _MOUTH)
    if is_open > 0.25:
        face.line(upper[3:-3] + (0, 0.03), _TEETH, 0.04)
    face.line(upper, lips, 0.05)
    face.line(lower, lips, 0.06)


def _ellipse(x: float, y: float, half_width: float, half_height: float) -> np.ndarray:
    return _CIRCLE * (half_width, half_height) + (x, y)


def _bounded(cue: float) -> float:
    return min(max(cue, -2.2), 2.2)
