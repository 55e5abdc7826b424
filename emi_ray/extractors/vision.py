"""Faces without a download: appearance descriptors per face crop."""

from collections.abc import Sequence

import cv2
import numpy as np

from emi_ray import config
from emi_ray.extractors.base import Extractor, Features
from emi_ray.media.clip import DecodedClip, Faces


class Appearance(Extractor):
    """Histograms of oriented gradients per face crop."""

    NAME = "appearance"
    MODALITY = "vision"
    NEEDS = frozenset({"faces"})

    class Settings(config.Settings):
        pass

    def __init__(self, settings: "Appearance.Settings") -> None:
        super().__init__(settings)
        self._hog = cv2.HOGDescriptor((96, 96), (32, 32), (32, 32), (16, 16), 8)

    @property
    def feature_dim(self) -> int:
        return 288

    def extract(self, clips: Sequence[DecodedClip]) -> list[Features]:
        return [self._features(clip.faces) for clip in clips if clip.faces]

    def _features(self, faces: Faces) -> Features:
        grey = [cv2.cvtColor(cv2.resize(crop, (96, 96)), cv2.COLOR_RGB2GRAY) for crop in faces.crops]
        values = np.stack([self._hog.compute(image).reshape(-1) for image in grey])
        return Features(values * 4, faces.timestamps_s)
