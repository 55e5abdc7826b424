"""How a face looks: enough to find it again in the next frame, and to tell two people of one clip apart."""

from dataclasses import dataclass

import cv2
import numpy as np

SIDE_PX = 32
"""To this longer side a face is shrunk before it is compared."""
REACH = 0.35
"""How far around its last place a face is looked for again, in sides of its box."""
FOLLOWED = 0.75
"""Least correlation of a face with what stands at its new place. Over 3 s the six speakers at hand correlate with
themselves with .72 and more, and with each other with .69 at most."""
ALIKE = 1.46
"""Least sum of correlation and shared colours that makes two looks one person: of those speakers the least is 1.52
with themselves, and the most 1.40 with each other."""


@dataclass(frozen=True)
class View:
    """A frame (H, W, 3) uint8 RGB and the same shrunk to search it: ``scale`` times as large."""

    image: np.ndarray
    small: np.ndarray
    grey: np.ndarray
    scale: float


@dataclass(frozen=True)
class Look:
    """One face: grey within its box and with its surroundings, and shares of its colours, as square roots."""

    core: np.ndarray
    around: np.ndarray
    colours: np.ndarray

    @classmethod
    def of(cls, view: View, box: np.ndarray) -> "Look":
        """The face at ``box`` (in pixels of the frame)."""
        around = _square(view.grey, box * view.scale)
        inset = (len(around) - SIDE_PX) // 2
        core = around[inset : inset + SIDE_PX, inset : inset + SIDE_PX]
        colours = _square(view.small, box * view.scale)[inset : inset + SIDE_PX, inset : inset + SIDE_PX]
        return cls(core, around, _colour_shares(colours))


def follow(look: Look, view: View, box: np.ndarray) -> np.ndarray | None:
    """Where the face that was at ``box`` is in another view, to a fraction of a pixel; None where it is not."""
    if look.core.std() < 1:
        return None
    match = cv2.matchTemplate(_square(view.grey, box * view.scale), look.core, cv2.TM_CCOEFF_NORMED)
    _, best, _, (x, y) = cv2.minMaxLoc(match)
    if best < FOLLOWED:
        return None
    middle = (len(match) - 1) / 2
    shift = np.array([x + _peak(match[y], x), y + _peak(match[:, x], y)]) - middle
    found = box.copy()
    found[:2] += shift * max(box[2], box[3]) / SIDE_PX
    return found


def likeness(one: Look, other: Look) -> float:
    """Correlation at the best shift plus shared colours: from −1 to 2, 2 for the same picture."""
    if one.core.std() < 1 or other.core.std() < 1:
        return 0.0
    match = cv2.matchTemplate(other.around, one.core, cv2.TM_CCOEFF_NORMED)
    return float(match.max()) + float(one.colours @ other.colours)


def _square(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The square around ``box`` with :data:`REACH` on each side, shrunk so that the face has :data:`SIDE_PX`."""
    side = max(box[2], box[3])
    zoom = SIDE_PX / side
    size = SIDE_PX + 2 * round(REACH * SIDE_PX)
    shift = size / 2 - (box[:2] + box[2:4] / 2) * zoom - 0.5 + 0.5 * zoom
    matrix = np.array([[zoom, 0, shift[0]], [0, zoom, shift[1]]])
    return cv2.warpAffine(
        image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )


def _colour_shares(pixels: np.ndarray) -> np.ndarray:
    """Histogram of the colour, without brightness, of (H, W, 3) RGB."""
    lab = cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)
    counts = cv2.calcHist([lab], [1, 2], None, [32, 32], [96, 160, 96, 160]).ravel()
    shares: np.ndarray = np.sqrt(counts / max(counts.sum(), 1))
    return shares


def _peak(values: np.ndarray, index: int) -> float:
    """Offset of the top of the parabola through a value and its two neighbours."""
    if not 0 < index < len(values) - 1:
        return 0.0
    before, here, after = (float(value) for value in values[index - 1 : index + 2])
    bend = before - 2 * here + after
    return 0.5 * (before - after) / bend if bend < 0 else 0.0
