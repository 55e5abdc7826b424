"""Detect faces in one image with OpenCV."""

import math
import threading
from functools import lru_cache
from typing import Protocol

import cv2
import numpy as np

from emi_ray.config import FaceSettings
from emi_ray.errors import UserError
from emi_ray.media.face_matching import View
from emi_ray.media.scaling import rescale
from emi_ray.media.yunet import locate, settle_faces

HAAR_CASCADE = "haarcascade_frontalface_alt2.xml"
HAAR_SCALE_FACTOR = 1.2
HAAR_MIN_NEIGHBOURS = 4
MIN_FACE_SHARE = 0.125
"""Smallest face that is detected, as a share of the image's shorter side."""
YUNET_MIN_SCORE = 0.6


class FaceDetector(Protocol):
    """Detects faces in a small image (H, W, 3) uint8 RGB."""

    def find(self, image: np.ndarray, min_px: float) -> np.ndarray:
        """Return faces (N, 5) float32: x, y, width, height in pixels, and the clockwise rotation of the face in
        radians.

        The rotation is 0 if the detector does not measure it. Faces smaller than ``min_px`` are omitted.
        """


class FaceFinder:
    """Detects faces in frames of any size, scaled so that the longer side is at most ``side_px``."""

    def __init__(self, detector: FaceDetector, side_px: int) -> None:
        self._detector = detector
        self._side_px = side_px

    def view(self, image: np.ndarray) -> View:
        """Return a frame (H, W, 3) uint8 RGB together with its scaled version."""
        scale = min(1.0, self._side_px / max(image.shape[:2]))
        small = rescale(image, scale)
        return View(image, small, cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), scale)

    def survey(self, view: View) -> np.ndarray:
        """Return all faces in a frame, like :meth:`FaceDetector.find`, in pixels of the frame."""
        faces = self._detector.find(view.small, MIN_FACE_SHARE * min(view.small.shape[:2]))
        faces[:, :4] /= view.scale
        return faces


def build_finder(settings: FaceSettings) -> FaceFinder:
    """Return the finder for these settings. It is built once per thread, because OpenCV's detectors are not
    thread-safe.

    Raises:
        UserError: as :func:`~emi_ray.media.yunet.settle_faces`, or OpenCV cannot load the weights.
    """
    return _built(settings, threading.get_ident())


@lru_cache(maxsize=8)
def _built(settings: FaceSettings, thread: int) -> FaceFinder:
    return FaceFinder(_detector(settings), settings.detection_side_px)


def _detector(settings: FaceSettings) -> FaceDetector:
    settled = settle_faces(settings)
    return YuNetDetector(str(locate(settled))) if settled.detector == "yunet" else HaarDetector()


class HaarDetector:
    """The Viola–Jones cascade that is part of OpenCV."""

    def __init__(self) -> None:
        folder = cv2.data.haarcascades  # type: ignore[attr-defined]
        self._cascade = cv2.CascadeClassifier(folder + HAAR_CASCADE)

    def find(self, image: np.ndarray, min_px: float) -> np.ndarray:
        found = self._cascade.detectMultiScale(
            cv2.cvtColor(image, cv2.COLOR_RGB2GRAY),
            scaleFactor=HAAR_SCALE_FACTOR,
            minNeighbors=HAAR_MIN_NEIGHBOURS,
            minSize=(math.floor(min_px),) * 2,
        )
        boxes = np.asarray(found, np.float32).reshape(-1, 4)
        # Haar does not measure the rotation, which is therefore 0.
        return np.pad(boxes, ((0, 0), (0, 1)))


class YuNetDetector:
    """YuNet (Wu et al., 2023), run by ``cv2.FaceDetectorYN``."""

    def __init__(self, model: str) -> None:
        try:
            self._net = cv2.FaceDetectorYN.create(model, "", (320, 320), YUNET_MIN_SCORE)
        except cv2.error as error:
            raise UserError(
                f"media.faces.yunet_model = '{model}': OpenCV cannot load it ({error.err}). "
                "Give face_detection_yunet_2023mar.onnx."
            ) from None

    def find(self, image: np.ndarray, min_px: float) -> np.ndarray:
        # YuNet refuses an image whose size is not the one that was set.
        self._net.setInputSize((image.shape[1], image.shape[0]))
        _, found = self._net.detect(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        if found is None:
            return np.empty((0, 5), np.float32)
        boxes = np.asarray(found[:, :4], np.float32)
        faces = np.column_stack([boxes, roll(np.asarray(found[:, 4:14], np.float32))])
        return faces[boxes[:, 2:].max(axis=1) >= min_px]


def roll(landmarks: np.ndarray) -> np.ndarray:
    """Return the clockwise rotation of each face in radians, (N,).

    Args:
        landmarks: (N, 10), x and y of right and left eye, tip of the nose, right and left corner of the mouth. The
            person's right is on the left of the image.
    """
    points = landmarks.reshape(-1, 5, 2)
    # The lines between the eyes and between the corners of the mouth both lie across an upright face.
    across = points[:, 1] - points[:, 0] + points[:, 4] - points[:, 3]
    angles: np.ndarray = np.arctan2(across[:, 1], across[:, 0])
    return angles


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Return the intersection over union of two boxes (x, y, width, height)."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    # Both factors are limited, since the product of two negative ones would be positive.
    shared = max(0.0, float(width)) * max(0.0, float(height))
    return shared / (float(a[2] * a[3] + b[2] * b[3]) - shared)
