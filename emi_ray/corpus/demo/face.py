"""A drawn face. Coordinates: the head's centre is (0, 0), its half-height 1, y points down."""

from dataclasses import dataclass

import cv2
import numpy as np

from emi_ray.corpus.demo.performance import Pose

SIDE_PX = 192
_SHIFT = 4
"""Fractional bits of OpenCV's drawing coordinates: movements of less than a pixel show."""

_SKIN_TONES = (
    (255, 224, 196),
    (241, 194, 160),
    (224, 172, 125),
    (198, 140, 96),
    (165, 110, 74),
    (128, 84, 58),
)
_HAIR_COLOURS = ((35, 28, 24), (70, 46, 30), (110, 72, 40), (176, 138, 82), (120, 118, 116), (122, 52, 28))
_TURN = np.linspace(0, 2 * np.pi, 20, endpoint=False)
_CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1)
_HAIR_STYLES = ("short", "long", "cropped", "bun")


@dataclass(frozen=True)
class VisionCues:
    """Shape of the face in standard deviations; one for each emotion, in the order of ``EMOTIONS``."""

    brow_height: float
    mouth_width: float
    brow_weight: float
    brow_slant: float
    eye_openness: float
    smile: float


@dataclass(frozen=True)
class Look:
    """What says nothing of the labels: who it is, where, and in which light."""

    background: np.ndarray
    light: np.ndarray
    skin: np.ndarray
    hair: np.ndarray
    hair_style: str
    shirt: np.ndarray
    iris: np.ndarray
    centre_px: np.ndarray
    head_px: float
    head_width: float


def draw_look(rng: np.random.Generator) -> Look:
    """A person in a room, at random."""
    skin = np.array(_SKIN_TONES[rng.integers(len(_SKIN_TONES))]) + rng.normal(0, 5, 3)
    hair = np.array(_HAIR_COLOURS[rng.integers(len(_HAIR_COLOURS))]) + rng.normal(0, 6, 3)
    return Look(
        background=_room(float(skin.mean()) * rng.uniform(0.35, 0.8), rng),
        light=_light(rng),
        skin=skin.clip(40, 250),
        hair=np.minimum(hair, 0.68 * skin).clip(10, 240),
        hair_style=str(rng.choice(_HAIR_STYLES)),
        shirt=rng.uniform(40, 200, 3),
        iris=np.array([(62, 44, 30), (52, 78, 96), (60, 84, 52)][rng.integers(3)], float),
        centre_px=np.array([SIDE_PX / 2, SIDE_PX * 0.47]) + rng.uniform(-9, 9, 2),
        head_px=SIDE_PX * rng.uniform(0.29, 0.33),
        head_width=rng.uniform(0.72, 0.80),
    )


def draw_frame(look: Look, cues: VisionCues, pose: Pose) -> np.ndarray:
    """One frame, (SIDE_PX, SIDE_PX, 3) uint8 RGB."""
    face = _Canvas(look, pose)
    _draw_body(face)
    _draw_head(face)
    for side in (-1, 1):
        _draw_eye(face, cues, side)
        _draw_brow(face, cues, side)
    _draw_nose(face)
    _draw_mouth(face, cues)
    lit: np.ndarray = cv2.multiply(face.image, look.light, scale=1.0, dtype=cv2.CV_8U)
    return cv2.GaussianBlur(lit, (3, 3), 0.6)


class _Canvas:
    """An image, and the way from face coordinates to its pixels."""

    def __init__(self, look: Look, pose: Pose) -> None:
        self.look = look
        self.pose = pose
        self.image = look.background.copy()
        scale = look.head_px * np.exp(pose.log_scale)
        cos, sin = np.cos(pose.roll) * scale, np.sin(pose.roll) * scale
        self._turn = np.array([[cos, sin], [-sin, cos]])
        self._centre = look.centre_px + look.head_px * np.array([pose.x, pose.y])
        self._scale = scale

    def fill(self, points: np.ndarray, colour: np.ndarray, depth: float = 1.0) -> None:
        """Fill the polygon ``points`` (P, 2). ``depth`` 1 lies on the front of the face and slides as the head
        turns; 0 lies on its outline."""
        cv2.fillPoly(self.image, [self._pixels(points, depth)], _rgb(colour), cv2.LINE_AA, _SHIFT)

    def line(self, points: np.ndarray, colour: np.ndarray, width: float, depth: float = 1.0) -> None:
        """Draw the open line ``points`` (P, 2), ``width`` in half-heights of the head."""
        thickness = max(1, round(width * self._scale))
        cv2.polylines(
            self.image, [self._pixels(points, depth)], False, _rgb(colour), thickness, cv2.LINE_AA, _SHIFT
        )

    def _pixels(self, points: np.ndarray, depth: float) -> np.ndarray:
        moved = points + depth * 1.5 * np.array([self.pose.x, self.pose.y])
        return np.rint((moved @ self._turn + self._centre) * (1 << _SHIFT)).astype(np.int32)


def _draw_body(face: _Canvas) -> None:
    look = face.look
    if look.hair_style == "long":
        face.fill(_ellipse(0, 0.15, look.head_width + 0.24, 1.22), look.hair, depth=-0.3)
    if look.hair_style == "bun":
        face.fill(_ellipse(0, -1.12, 0.3, 0.26), look.hair, depth=-0.3)
    face.fill(_ellipse(0, 2.15, 1.45, 0.95), look.shirt, depth=-0.5)
    face.fill(np.array([[-0.3, 0.6], [0.3, 0.6], [0.36, 1.4], [-0.36, 1.4]]), look.skin * 0.78, depth=-0.2)


def _draw_head(face: _Canvas) -> None:
    look, jaw = face.look, 0.05 * face.pose.mouth_open
    for side in (-1, 1):
        face.fill(_ellipse(side * look.head_width, 0.0, 0.1, 0.2), look.skin * 0.86, depth=-0.2)
    face.fill(_ellipse(0, -0.1, look.head_width + 0.05, 0.98), look.hair, depth=-0.1)
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    chin = np.where(np.sin(angle) > 0, 1.0 + jaw, 0.9)
    width = look.head_width * np.where(np.sin(angle) > 0, 1 - 0.14 * np.sin(angle) ** 2, 1.0)
    face.fill(np.stack([width * np.cos(angle), chin * np.sin(angle)], axis=1), look.skin, depth=0.0)
    if look.hair_style != "cropped":
        angle = np.linspace(np.pi, 2 * np.pi, 16)
        top = np.stack([look.head_width * 1.03 * np.cos(angle), 0.95 * np.sin(angle)], axis=1)
        fringe = np.stack([np.linspace(0.7, -0.7, 9), -0.62 - 0.1 * np.sin(np.linspace(0, np.pi, 9))], axis=1)
        face.fill(np.concatenate([top, fringe]), look.hair, depth=0.0)


def _draw_eye(face: _Canvas, cues: VisionCues, side: int) -> None:
    x, y = 0.31 * side, -0.14
    skin = face.look.skin
    face.fill(_ellipse(x + 0.03 * side, y + 0.27, 0.22, 0.15), skin * 1.05)
    face.fill(_ellipse(x, y - 0.02, 0.24, 0.18), skin * 0.84)
    face.fill(_ellipse(x, y, 0.20, 0.125), skin * 0.74)
    half_height = 0.078 * 2 ** min(0.55 * cues.eye_openness + face.pose.lid_lift, 1.3)
    half_height *= 1 - face.pose.eyes_shut
    turn = np.linspace(0, np.pi, 9)
    across = x - 0.16 * np.cos(turn)
    upper = np.stack([across, y - half_height * np.sin(turn)], axis=1)
    lower = np.stack([across, y + 0.8 * half_height * np.sin(turn)], axis=1)
    if half_height > 0.015:
        face.fill(np.concatenate([upper, lower[::-1]]), np.array([236.0, 234.0, 230.0]))
        ball = min(0.082, half_height)
        face.fill(_ellipse(x, y, 0.082, ball), face.look.iris)
        face.fill(_ellipse(x, y, 0.036, min(0.036, ball)), np.array([12.0, 12.0, 14.0]))
    face.line(upper, np.array([32.0, 24.0, 22.0]), 0.035)
    face.line(lower, skin * 0.6, 0.012)


def _draw_brow(face: _Canvas, cues: VisionCues, side: int) -> None:
    height = 0.055 * np.clip(cues.brow_height, -2.5, 2.5) + face.pose.brow_lift
    slant = 0.075 * np.clip(cues.brow_slant, -2.5, 2.5)
    weight = 0.033 * 2 ** (0.6 * np.clip(cues.brow_weight, -2, 2))
    along = np.linspace(0, 1, 7)
    x = side * (0.14 + 0.36 * along)
    y = -0.41 - height - slant * (0.5 - along) * 2 - 0.05 * np.sin(np.pi * along)
    thick = weight * (1.1 - 0.7 * along)
    outline = np.concatenate([np.stack([x, y - thick], 1), np.stack([x, y + thick], 1)[::-1]])
    face.fill(outline, np.minimum(face.look.hair, face.look.skin * 0.5) * 0.8)


def _draw_nose(face: _Canvas) -> None:
    skin = face.look.skin
    face.fill(np.array([[-0.05, -0.3], [0.05, -0.3], [0.08, 0.2], [-0.08, 0.2]]), skin * 1.09, depth=1.1)
    face.line(
        np.array([[-0.13, 0.2], [-0.06, 0.25], [0.06, 0.25], [0.13, 0.2]]), skin * 0.62, 0.03, depth=1.2
    )


def _draw_mouth(face: _Canvas, cues: VisionCues) -> None:
    skin, is_open = face.look.skin, face.pose.mouth_open
    half_width = 0.26 * 2 ** (0.35 * np.clip(cues.mouth_width, -2.5, 2.5)) * (1 - 0.1 * is_open)
    curve = 0.1 * np.clip(cues.smile, -2.5, 2.5)
    along = np.linspace(-1, 1, 13)
    x = half_width * along + face.pose.mouth_shift
    line = 0.52 - face.pose.mouth_lift + curve * (0.4 - along**2)
    gape = (0.015 + 0.15 * is_open) * (1 - along**2)
    upper, lower = np.stack([x, line - 0.35 * gape], 1), np.stack([x, line + gape], 1)
    lips = skin * np.array([0.78, 0.52, 0.52])
    face.fill(np.concatenate([upper, lower[::-1]]), np.array([58.0, 22.0, 24.0]))
    if is_open > 0.25:
        teeth = upper + np.array([0, 0.03])
        face.line(teeth[3:-3], np.array([226.0, 222.0, 214.0]), 0.04)
    face.line(upper, lips, 0.05)
    face.line(lower, lips, 0.06)


def _ellipse(x: float, y: float, half_width: float, half_height: float) -> np.ndarray:
    return _CIRCLE * (half_width, half_height) + (x, y)


def _rgb(colour: np.ndarray) -> list[float]:
    return [min(max(part, 0.0), 255.0) for part in colour.tolist()]


def _room(level: float, rng: np.random.Generator) -> np.ndarray:
    """A wall of about this brightness with a soft gradient, a stripe or two, and what may hang there."""
    corners = level + rng.normal(0, 18, (1, 1, 3)) + rng.normal(0, 12, (2, 2, 3))
    wall = cv2.resize(corners.astype(np.float32), (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_LINEAR)
    for _ in range(rng.integers(1, 4)):
        start, size = rng.integers(0, SIDE_PX, 2), rng.integers(20, 90, 2)
        tint = wall.mean((0, 1)) * rng.uniform(0.75, 1.2)
        end = start + size
        cv2.rectangle(wall, start.tolist(), end.tolist(), tint.tolist(), -1)
    return np.asarray(cv2.GaussianBlur(wall, (9, 9), 0).clip(0, 255), np.uint8)


def _light(rng: np.random.Generator) -> np.ndarray:
    """Gain of each pixel: a general level and a gradient from a random side, (SIDE_PX, SIDE_PX, 3) float32."""
    corners = rng.uniform(0.8, 1.08) * (1 + rng.uniform(-0.12, 0.12, (2, 2))).astype(np.float32)
    gain = cv2.resize(corners.astype(np.float32), (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_LINEAR)
    return np.repeat(gain[..., None], 3, axis=2)
