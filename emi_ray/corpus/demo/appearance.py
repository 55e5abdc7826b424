"""Appearance without any information on the labels: person, room and light."""

from dataclasses import dataclass

import cv2
import numpy as np

SIDE_PX = 192

_SKIN_TONES = (
    (255, 224, 196),
    (241, 194, 160),
    (224, 172, 125),
    (198, 140, 96),
    (165, 110, 74),
    (128, 84, 58),
)
_HAIR_COLOURS = ((35, 28, 24), (70, 46, 30), (110, 72, 40), (176, 138, 82), (120, 118, 116), (122, 52, 28))
_HAIR_STYLES = ("short", "long", "cropped", "bun")
_EYE_COLOURS = ((62, 44, 30), (52, 78, 96), (60, 84, 52))


@dataclass(frozen=True)
class Look:
    """One person in one room. Colours are RGB from 0 to 255, (3,) float.

    Attributes:
        background: (SIDE_PX, SIDE_PX, 3) uint8.
        light: gain of each pixel, (SIDE_PX, SIDE_PX, 3) float32.
        centre_px: x and y of the head at rest.
        head_px: half-height of the head.
        head_width: half-width of the head, in half-heights.
    """

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
    """Draw a random person in a room. Hair and wall are darker than the skin, because Haar cascades require it."""
    skin = (_pick(_SKIN_TONES, rng) + rng.normal(0, 5, 3)).clip(40, 250)
    hair = _pick(_HAIR_COLOURS, rng) + rng.normal(0, 6, 3)
    return Look(
        background=_room(float(skin.mean()) * rng.uniform(0.45, 0.65), rng),
        light=_light(rng),
        skin=skin,
        hair=np.minimum(hair, 0.6 * skin).clip(10, 240),
        hair_style=str(rng.choice(_HAIR_STYLES)),
        shirt=rng.uniform(40, 200, 3),
        iris=_pick(_EYE_COLOURS, rng),
        centre_px=np.array([SIDE_PX / 2, SIDE_PX * 0.47]) + rng.uniform(-9, 9, 2),
        head_px=SIDE_PX * rng.uniform(0.29, 0.33),
        head_width=rng.uniform(0.73, 0.79),
    )


def _pick(colours: tuple[tuple[int, int, int], ...], rng: np.random.Generator) -> np.ndarray:
    return np.array(colours[rng.integers(len(colours))], float)


def _room(level: float, rng: np.random.Generator) -> np.ndarray:
    """Draw a wall of about this brightness with a soft gradient and a few objects."""
    corners = level + rng.normal(0, 14, (1, 1, 3)) + rng.normal(0, 10, (2, 2, 3))
    wall = _spread(corners)
    for _ in range(rng.integers(1, 4)):
        start, size = rng.integers(0, SIDE_PX, 2), rng.integers(20, 90, 2)
        tint = wall.mean((0, 1)) * rng.uniform(0.75, 1.2)
        cv2.rectangle(wall, start.tolist(), (start + size).tolist(), tint.tolist(), -1)
    return np.asarray(cv2.GaussianBlur(wall, (9, 9), 0).clip(0, 255), np.uint8)


def _light(rng: np.random.Generator) -> np.ndarray:
    """Draw an overall gain and a gradient from a random side."""
    gain = rng.uniform(0.8, 1.08) * (1 + rng.uniform(-0.12, 0.12, (2, 2)))
    return np.repeat(_spread(gain)[..., None], 3, axis=2)


def _spread(corners: np.ndarray) -> np.ndarray:
    """Interpolate the values of four corners (2, 2, …) over the whole image."""
    picture = cv2.resize(corners.astype(np.float32), (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_LINEAR)
    return np.asarray(picture)
