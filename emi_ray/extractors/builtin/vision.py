"""Built-in vision extractor: appearance descriptors per face crop. Nothing is downloaded."""

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from emi_ray.errors import ClipError
from emi_ray.extractors.base import Extractor, Features
from emi_ray.extractors.builtin.image.regions import (
    COLOUR_NAMES,
    EYES,
    FACE_SHARE,
    QUALITY_NAMES,
    REGION_NAMES,
    REGIONS,
    colour_statistics,
    cut,
    face_windows,
    quality,
    region_statistics,
    shrink,
    standardise,
    to_grey,
)
from emi_ray.extractors.builtin.image.texture import (
    HOG_DIM,
    HOG_SIZE,
    LBP_BINS,
    binary_patterns,
    gradient_histograms,
    low_frequencies,
)
from emi_ray.media.clip import DecodedClip, Faces
from emi_ray.settings import Settings

_CHUNK_FRAMES = 64
_LBP_GRID = 3
_DEVIATION_GRID = 4
_SMALL = 32
_ORDERS = {"face": 8, "eyes": 6, "mouth": 6}


class AppearanceSettings(Settings):
    """The part of a crop that is described."""

    face_share: float = Field(
        FACE_SHARE, ge=0.3, le=1, description="side of the window from brow to chin, as a share of the crop's"
    )


class Appearance(Extractor):
    """Hand-crafted descriptors of one face crop per step.

    Each crop is cut to a window from brow to chin (the default suits crops with a margin of 0.25; use 1 for tight
    ones) and resized to 96 × 96 pixels. Blocks of dimensions, in order (:meth:`feature_names`):

    - ``hog`` (288): histograms of oriented gradients on 6 × 6 cells;
    - ``lbp`` (90): local binary patterns on 3 × 3 cells, as square roots of shares;
    - ``dct_face``, ``dct_eyes``, ``dct_mouth`` (63, 35, 35): low frequencies, after removing brightness and
      contrast;
    - regions (40), colour (11) and quality (7): see :mod:`emi_ray.extractors.builtin.image.regions`;
    - ``deviation`` (16): mean absolute difference from the clip's median face on 4 × 4 cells, which measures how
      far an expression differs from the person's usual one.

    All are scaled by fixed constants to O(1). Only ``deviation`` depends on the other frames of the clip.
    """

    NAME = "appearance"
    MODALITY = "vision"
    NEEDS = frozenset({"faces"})
    DIM = 585
    Settings = AppearanceSettings

    @property
    def feature_dim(self) -> int:
        return len(self.feature_names())

    def feature_names(self) -> list[str]:
        """Return one name per dimension, such as ``hog_0``, ``mouth_dark`` or ``sharpness``."""
        sizes = {"hog": HOG_DIM, "lbp": _LBP_GRID**2 * LBP_BINS}
        sizes |= {f"dct_{part}": order**2 - 1 for part, order in _ORDERS.items()}
        regions = [f"{region}_{name}" for region in REGIONS for name in REGION_NAMES]
        deviation = [f"deviation_{cell}" for cell in range(_DEVIATION_GRID**2)]
        numbered = [f"{block}_{index}" for block, size in sizes.items() for index in range(size)]
        return [*numbered, *regions, *COLOUR_NAMES, *QUALITY_NAMES, *deviation]

    def extract(self, clips: Sequence[DecodedClip]) -> list[Features]:
        """Compute one step per face crop: (T, feature_dim) float32, with the timestamps of the crops.

        Raises:
            ClipError: a clip has no face crops.
        """
        return [self._features(clip.faces) for clip in clips if clip.faces]

    def _features(self, faces: Faces) -> Features:
        if not len(faces.crops):
            raise ClipError("vision", "there are no face crops")
        chunks = [slice(first, first + _CHUNK_FRAMES) for first in range(0, len(faces.crops), _CHUNK_FRAMES)]
        parts = [self._describe(faces.crops[chunk], faces.detected[chunk]) for chunk in chunks]
        descriptors, small = (np.concatenate(part) for part in zip(*parts, strict=True))
        values = np.concatenate([descriptors, _deviation(small)], axis=1, dtype=np.float32)
        return Features(np.clip(values, -10, 10), faces.timestamps_s.astype(np.float32))

    def _describe(self, crops: np.ndarray, detected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return all blocks but the last, (T, D − 16), and the small standardised faces (T, 32, 32)."""
        colour = shrink(face_windows(crops, self.settings.face_share), HOG_SIZE, HOG_SIZE)
        grey = to_grey(colour)
        standard = standardise(grey)
        small = shrink(standard, _SMALL, _SMALL)
        eyes = shrink(cut(standard, EYES), _SMALL, _SMALL // 2)
        mouth = shrink(cut(standard, REGIONS["mouth"]), _SMALL, _SMALL // 2)
        blocks = [
            gradient_histograms(grey) * 4 - 1,
            np.sqrt(binary_patterns(grey, _LBP_GRID)) * 4 - 1,
            low_frequencies(small, _ORDERS["face"]),
            low_frequencies(eyes, _ORDERS["eyes"]),
            low_frequencies(mouth, _ORDERS["mouth"]),
            region_statistics(standard),
            colour_statistics(colour),
            quality(grey, standard, detected),
        ]
        return np.concatenate(blocks, axis=1, dtype=np.float32), small


def _deviation(small: np.ndarray) -> np.ndarray:
    """Compute ``deviation`` (T, 16) from small faces (T, 32, 32)."""
    away = np.abs(small - np.median(small, axis=0))
    cell = _SMALL // _DEVIATION_GRID
    cells = away.reshape(len(small), _DEVIATION_GRID, cell, _DEVIATION_GRID, cell).mean(axis=(2, 4))
    return cells.reshape(len(small), -1) * 5
