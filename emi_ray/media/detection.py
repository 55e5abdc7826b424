"""Finding faces in one picture, by OpenCV."""

from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from emi_ray.config import FaceSettings
from emi_ray.errors import UserError

HAAR_CASCADE = "haarcascade_frontalface_alt2.xml"
HAAR_SCALE_FACTOR = 1.2
HAAR_MIN_NEIGHBOURS = 4
MIN_FACE_SHARE = 0.1
"""Smallest face that is looked for, as a share of the picture's shorter side."""
YUNET_MIN_SCORE = 0.6


class FaceDetector(Protocol):
    """Finds faces in a picture (H, W, 3) uint8 RGB."""

    def detect(self, image: np.ndarray) -> np.ndarray:
        """Boxes (N, 4) float32 in pixels of ``image``: x, y, width, height."""


def build_detector(settings: FaceSettings) -> FaceDetector:
    """The detector that the settings name.

    Raises:
        UserError: ``yunet`` without a model file that can be used.
    """
    if settings.detector == "haar":
        return HaarDetector(settings.detection_side_px)
    model = settings.yunet_model
    if model is None or not Path(model).expanduser().is_file():
        problem = f"the file {model} is not there" if model else "no model file is given"
        raise UserError(
            f"media.faces.detector = 'yunet': {problem}. Set media.faces.yunet_model to the path of "
            "face_detection_yunet_2023mar.onnx, or media.faces.detector=haar."
        )
    return YuNetDetector(str(Path(model).expanduser()), settings.detection_side_px)


class HaarDetector:
    """The Viola–Jones cascade that comes with OpenCV."""

    def __init__(self, side_px: int) -> None:
        self._side_px = side_px
        self._cascade = cv2.CascadeClassifier(cv2.data.haarcascades + HAAR_CASCADE)

    def detect(self, image: np.ndarray) -> np.ndarray:
        small, scale = _shrink(image, self._side_px)
        found = self._cascade.detectMultiScale(
            cv2.cvtColor(small, cv2.COLOR_RGB2GRAY),
            scaleFactor=HAAR_SCALE_FACTOR,
            minNeighbors=HAAR_MIN_NEIGHBOURS,
            minSize=(max(1, round(MIN_FACE_SHARE * min(small.shape[:2]))),) * 2,
        )
        return np.asarray(found, np.float32).reshape(-1, 4) / scale


class YuNetDetector:
    """YuNet (Wu et al., 2023), through ``cv2.FaceDetectorYN``."""

    def __init__(self, model: str, side_px: int) -> None:
        self._side_px = side_px
        try:
            self._net = cv2.FaceDetectorYN.create(model, "", (side_px, side_px), YUNET_MIN_SCORE)
        except cv2.error as error:
            raise UserError(
                f"media.faces.yunet_model = '{model}': OpenCV cannot load it ({error.err}). "
                "Give face_detection_yunet_2023mar.onnx."
            ) from None

    def detect(self, image: np.ndarray) -> np.ndarray:
        small, scale = _shrink(image, self._side_px)
        self._net.setInputSize((small.shape[1], small.shape[0]))
        _, found = self._net.detect(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
        if found is None:
            return np.empty((0, 4), np.float32)
        return np.asarray(found[:, :4], np.float32) / scale


def _shrink(image: np.ndarray, side_px: int) -> tuple[np.ndarray, float]:
    """The picture with its longer side at most ``side_px``, and by what it was scaled."""
    scale = min(1.0, side_px / max(image.shape[:2]))
    if scale == 1.0:
        return image, scale
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), scale
