"""The appearance of a face: to find it again in the next frame, and to distinguish two people in a clip."""

from dataclasses import dataclass

import cv2
import numpy as np

SIDE_PX = 32
"""Longer side to which a face is resized before it is compared."""
REACH = 0.35
"""Radius around its last position in which a face is searched, in sides of its box."""
FOLLOWED = 0.75
"""Lowest correlation at which a face counts as found again. In tests over 3 s, the faces of six speakers had
correlations of at least 0.72 with themselves and of at most 0.69 with each other."""
ALIKE = 1.46
"""Lowest likeness (correlation plus similarity of colours) at which two faces count as one person. Those speakers had
at least 1.52 with themselves, and at most 1.40 with each other."""


@dataclass(frozen=True)
class View:
    """A frame (H, W, 3) uint8 RGB, and its version for searching, ``scale`` times as large, in colour and grey."""

    image: np.ndarray
    small: np.ndarray
    grey: np.ndarray
    scale: float


@dataclass(frozen=True)
class Look:
    """The appearance of one face.

    Attributes:
        core: grey image of the box.
        around: grey image of the box with its surroundings.
        colours: histogram of the colours, as square roots of shares.
    """

    core: np.ndarray
    around: np.ndarray
    colours: np.ndarray

    @classmethod
    def of(cls, view: View, box: np.ndarray) -> "Look":
        """Return the appearance of the face at ``box`` (in pixels of the frame)."""
        around = _square(view.grey, box * view.scale)
        inset = (len(around) - SIDE_PX) // 2
        core = around[inset : inset + SIDE_PX, inset : inset + SIDE_PX]
        colours = _square(view.small, box * view.scale)[inset : inset + SIDE_PX, inset : inset + SIDE_PX]
        return cls(core, around, _colour_shares(colours))


def follow(look: Look, view: View, box: np.ndarray) -> np.ndarray | None:
    """Return the box of the face that was at ``box`` in another view, with subpixel accuracy; None if it is not
    found.
    """
    # The normalised correlation of a nearly uniform image is noise.
    if look.core.std() < 1:
        return None
    match = cv2.matchTemplate(_square(view.grey, box * view.scale), look.core, cv2.TM_CCOEFF_NORMED)
    _, best, _, (x, y) = cv2.minMaxLoc(match)
    if best < FOLLOWED:
        return None
    # The middle of the match is the position without any motion.
    middle = (len(match) - 1) / 2
    shift = np.array([x + _peak(match[y], x), y + _peak(match[:, x], y)]) - middle
    found = box.copy()
    found[:2] += shift * max(box[2], box[3]) / SIDE_PX
    return found


def likeness(one: Look, other: Look) -> float:
    """Return the correlation at the best shift plus the similarity of colours: −1 to 2, 2 for equal images."""
    if one.core.std() < 1 or other.core.std() < 1:
        return 0.0
    match = cv2.matchTemplate(other.around, one.core, cv2.TM_CCOEFF_NORMED)
    return float(match.max()) + float(one.colours @ other.colours)


def _square(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Cut the square around ``box`` with :data:`REACH` on each side, scaled so that the face has :data:`SIDE_PX`."""
    side = max(box[2], box[3])
    zoom = SIDE_PX / side
    size = SIDE_PX + 2 * round(REACH * SIDE_PX)
    # OpenCV has the centre of pixel 0 at 0, so scaling about pixel edges needs the two halves.
    shift = size / 2 - (box[:2] + box[2:4] / 2) * zoom - 0.5 + 0.5 * zoom
    matrix = np.array([[zoom, 0, shift[0]], [0, zoom, shift[1]]])
    return cv2.warpAffine(
        image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )


def _colour_shares(pixels: np.ndarray) -> np.ndarray:
    """Return a histogram of chroma (colour without brightness) of (H, W, 3) RGB."""
    lab = cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)
    counts = cv2.calcHist([lab], [1, 2], None, [32, 32], [96, 160, 96, 160]).ravel()
    # With square roots, the scalar product of two histograms is their Bhattacharyya coefficient, 1 if they are equal.
    shares: np.ndarray = np.sqrt(counts / max(counts.sum(), 1))
    return shares


def _peak(values: np.ndarray, index: int) -> float:
    """Return the offset of the maximum of the parabola through a value and its two neighbours."""
    if not 0 < index < len(values) - 1:
        return 0.0
    before, here, after = (float(value) for value in values[index - 1 : index + 2])
    bend = before - 2 * here + after
    return 0.5 * (before - after) / bend if bend < 0 else 0.0
