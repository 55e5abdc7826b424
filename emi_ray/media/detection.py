"""Finding faces in one picture, by OpenCV."""

import math
import threading
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from emi_ray.config import FaceSettings
from emi_ray.errors import UserError
from emi_ray.media.scaling import rescale

HAAR_CASCADE = "haarcascade_frontalface_alt2.xml"
HAAR_SCALE_FACTOR = 1.2
HAAR_MIN_NEIGHBOURS = 4
MIN_FACE_SHARE = 0.125
"""Smallest face that is looked for, as a share of the picture's shorter side."""
YUNET_MIN_SCORE = 0.6
REACH = 0.35
"""How far around a known face it is looked for again, in sides of its box."""
SIZE_CHANGE = 1.3
"""By what factor a face may grow or shrink from one look to the next."""


class FaceDetector(Protocol):
    """Finds faces in a small picture (H, W, 3) uint8 RGB."""

    def find(self, image: np.ndarray, min_px: float, max_px: float) -> np.ndarray:
        """Boxes (N, 4) float32 in pixels: x, y, width, height.

        Args:
            min_px, max_px: no face smaller or larger than this is wanted, which may save work.
        """


class FaceFinder:
    """Looks for faces in frames of any size, at the scale where the longer side is at most ``side_px``."""

    def __init__(self, detector: FaceDetector, side_px: int) -> None:
        self._detector = detector
        self._side_px = side_px

    def survey(self, image: np.ndarray) -> np.ndarray:
        """All faces in a frame (H, W, 3) uint8 RGB: boxes (N, 4) float32 in its pixels."""
        scale = self._scale(image)
        small = rescale(image, scale)
        height, width = small.shape[:2]
        return self._detector.find(small, MIN_FACE_SHARE * min(height, width), max(height, width)) / scale

    def near(self, image: np.ndarray, box: np.ndarray) -> np.ndarray | None:
        """The face of about the size and place of ``box``, or None: some times as fast as :meth:`survey`."""
        scale = self._scale(image)
        x, y, width, height = box
        left, top = max(0, int(x - REACH * width)), max(0, int(y - REACH * height))
        region = image[top : int(y + (1 + REACH) * height) + 1, left : int(x + (1 + REACH) * width) + 1]
        side = max(width, height) * scale
        found = self._detector.find(rescale(region, scale), side / SIZE_CHANGE, side * SIZE_CHANGE) / scale
        found[:, :2] += (left, top)
        return max(found, key=lambda candidate: iou(candidate, box), default=None)

    def _scale(self, image: np.ndarray) -> float:
        return min(1.0, self._side_px / max(image.shape[:2]))


def build_finder(settings: FaceSettings) -> FaceFinder:
    """The finder that the settings describe, built once in each thread, as OpenCV's detectors serve only one.

    Raises:
        UserError: ``yunet`` without a model file that can be used.
    """
    return _built(settings, threading.get_ident())


@lru_cache(maxsize=8)
def _built(settings: FaceSettings, thread: int) -> FaceFinder:
    return FaceFinder(_detector(settings), settings.detection_side_px)


def _detector(settings: FaceSettings) -> FaceDetector:
    if settings.detector == "haar":
        return HaarDetector()
    model = settings.yunet_model
    if model is None or not Path(model).expanduser().is_file():
        problem = f"the file {model} is not there" if model else "no model file is given"
        raise UserError(
            f"media.faces.detector = 'yunet': {problem}. Set media.faces.yunet_model to the path of "
            "face_detection_yunet_2023mar.onnx, or media.faces.detector=haar."
        )
    return YuNetDetector(str(Path(model).expanduser()))


class HaarDetector:
    """The Viola–Jones cascade that comes with OpenCV."""

    def __init__(self) -> None:
        folder = cv2.data.haarcascades  # type: ignore[attr-defined]
        self._cascade = cv2.CascadeClassifier(folder + HAAR_CASCADE)

    def find(self, image: np.ndarray, min_px: float, max_px: float) -> np.ndarray:
        found = self._cascade.detectMultiScale(
            cv2.cvtColor(image, cv2.COLOR_RGB2GRAY),
            scaleFactor=HAAR_SCALE_FACTOR,
            minNeighbors=HAAR_MIN_NEIGHBOURS,
            minSize=(math.floor(min_px),) * 2,
            maxSize=(math.ceil(max_px),) * 2,
        )
        return np.asarray(found, np.float32).reshape(-1, 4)


class YuNetDetector:
    """YuNet (Wu et al., 2023), through ``cv2.FaceDetectorYN``."""

    def __init__(self, model: str) -> None:
        try:
            self._net = cv2.FaceDetectorYN.create(model, "", (320, 320), YUNET_MIN_SCORE)
        except cv2.error as error:
            raise UserError(
                f"media.faces.yunet_model = '{model}': OpenCV cannot load it ({error.err}). "
                "Give face_detection_yunet_2023mar.onnx."
            ) from None

    def find(self, image: np.ndarray, min_px: float, max_px: float) -> np.ndarray:
        self._net.setInputSize((image.shape[1], image.shape[0]))
        _, found = self._net.detect(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        if found is None:
            return np.empty((0, 4), np.float32)
        boxes = np.asarray(found[:, :4], np.float32)
        side = boxes[:, 2:].max(axis=1)
        return boxes[(side >= min_px) & (side <= max_px)]


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes (x, y, width, height)."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(0.0, float(width)) * max(0.0, float(height))
    return shared / (float(a[2] * a[3] + b[2] * b[3]) - shared)
