"""Read face crops that a corpus provides as images."""

import io
from pathlib import PurePosixPath

import cv2
import numpy as np
from PIL import Image

from emi_ray.media.clip import Faces
from emi_ray.media.containers import MAX_PIXELS
from emi_ray.media.crop_names import order_crops
from emi_ray.media.scaling import rescale, resize
from emi_ray.media.source import read_folder
from emi_ray.media.tracking import MAX_GAP_S

READY_CROPS_RATE_HZ = 6.0
"""Crops per second in a folder of existing crops, as in Hume-Vidmimic2."""

IMAGE_FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
"""Permitted contents of an image file, independent of its name."""
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})


def read_ready_crops(faces_dir: str, size_px: int, max_frames: int) -> tuple[Faces | None, dict[str, int]]:
    """Read a folder of numbered face images.

    The images of one face are sorted by the numbers in their names (see ``crop_names.py``). Files that are not
    images are ignored. Image n of the sorted list gets the timestamp n / 6 s. Each image is padded to a square and
    resized. All are one run, unless more than a second of images cannot be read; cuts are not looked for.

    Returns:
        The faces, with ``boxes`` NaN because they are unknown (None if no image can be read), and counts:
        ``frames_with_face``, ``images_unreadable``, ``crops_of_other_faces``.

    Raises:
        UnreadableError: the folder does not exist, or the names do not determine the order.
    """
    folder = read_folder(faces_dir)
    names, num_others = order_crops(sorted(name for name in folder.names if _is_image(name)))
    crops: list[np.ndarray] = []
    indices: list[int] = []
    unreadable = 0
    for index, name in enumerate(names[:max_frames]):
        image = _read_image(folder.read(name))
        if image is None:
            unreadable += 1
            continue
        crops.append(_square(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), size_px))
        # Timestamps come from the index in the folder, so that an unreadable image leaves a gap in time.
        indices.append(index)
    counts = {"frames_with_face": len(crops), "images_unreadable": unreadable}
    if num_others:
        counts["crops_of_other_faces"] = num_others
    if not crops:
        return None, counts
    timestamps_s = (np.array(indices) / READY_CROPS_RATE_HZ).astype(np.float32)
    boxes = np.full((len(crops), 4), np.nan, np.float32)
    starts = np.diff(indices, prepend=-np.inf) > MAX_GAP_S * READY_CROPS_RATE_HZ
    return Faces(np.stack(crops), boxes, timestamps_s, np.ones(len(crops), bool), starts), counts


def _read_image(data: bytes) -> np.ndarray | None:
    """Return the BGR image, or None if it cannot be read or its header declares more than ``MAX_PIXELS``.

    OpenCV raises an exception for some kinds of damage and returns None for others.
    """
    try:
        # Pillow reads only the header here; OpenCV would allocate the picture before its size is known.
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as header:
            if header.width * header.height > MAX_PIXELS:
                return None
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except (cv2.error, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")


def _square(image: np.ndarray, size_px: int) -> np.ndarray:
    height, width = image.shape[:2]
    if max(height, width) ** 2 > MAX_PIXELS:  # the square around a long strip would not fit into memory
        image = rescale(image, size_px / max(height, width))
        height, width = image.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    padded = cv2.copyMakeBorder(
        image, top, side - height - top, left, side - width - left, cv2.BORDER_REPLICATE
    )
    return resize(padded, size_px, size_px)
