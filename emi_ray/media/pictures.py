"""Convert decoded frames to what a viewer sees: square pixels, upright, not mirrored, progressive, standard dynamic
range.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
from av.sidedata.sidedata import SideData, Type
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from emi_ray.media.deinterlacing import Deinterlacer, is_interlaced
from emi_ray.media.tone_mapping import HLG, PQ, ToneMapper

PLAUSIBLE_ASPECTS = (0.1, 10.0)
"""Range of plausible pixel aspect ratios. Pixels with another declared ratio are treated as square."""
BT2020 = 9
UNSPECIFIED, IPT = 2, 15
"""Matrix coefficients by their numbers in ITU-T H.273. Dolby Vision's profile 5 uses IPT."""


@dataclass(frozen=True)
class Orientation:
    """How an image is rotated and mirrored: first transposed, then flipped horizontally, then vertically."""

    transposed: bool = False
    mirrored: bool = False
    flipped: bool = False

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Return a rotated view of (H, W, C)."""
        if self.transposed:
            pixels = pixels.transpose(1, 0, 2)
        return pixels[:: -1 if self.flipped else 1, :: -1 if self.mirrored else 1]


UPRIGHT = Orientation()
_QUARTERS = (
    UPRIGHT,
    Orientation(True, False, True),
    Orientation(False, True, True),
    Orientation(True, True, False),
)
"""Orientation by the number of quarter turns anticlockwise."""


def orientation_of(frame: VideoFrame) -> Orientation:
    """Return the orientation of the frame's display matrix, rounded to quarter turns.

    The matrix maps (x, y) to (a x + c y, b x + d y), and contains a, b, -, c, d, - in 16.16 fixed point (ISO/IEC
    14496-12, ``tkhd``).
    """
    kinds = _side_data(frame)
    if kinds is None:
        return _QUARTERS[round(frame.rotation / 90) % 4]
    matrices = [data for data in kinds if data.type is Type.DISPLAYMATRIX]
    if not matrices:
        return UPRIGHT
    a, b, _, c, d, *_ = np.frombuffer(bytes(matrices[0]), np.int32).tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, a < 0, d < 0)
    return Orientation(True, c < 0, b < 0)


def needs_dolby_metadata(frame: VideoFrame) -> bool:
    """Return whether the colours are correct only with Dolby Vision's metadata (RPU), which is not applied.

    This is the case for profile 5. Without metadata, other profiles are ordinary HDR or SDR.
    """
    if frame.colorspace == IPT:
        return True
    kinds = {data.type for data in _side_data(frame) or ()}
    return frame.colorspace == UNSPECIFIED and bool(kinds & {Type.DOVI_METADATA, Type.DOVI_RPU_BUFFER})


def _side_data(frame: VideoFrame) -> list[SideData] | None:
    """Return the side data of a frame; None if PyAV cannot list it because it does not know one of the types
    (EXIF).
    """
    try:
        return list(cast(Iterable[SideData], frame.side_data))
    except ValueError:
        return None


class RgbConverter:
    """Converts the frames of one clip to RGB arrays, all with the size of the first one.

    Frames with another size or shape than the first are fitted into it with black borders, like in a player's
    window.

    Args:
        scale_of: (width, height) of the first displayed frame → the scale factor; values above 1 count as 1.

    Attributes:
        notes: number of frames that had non-square pixels, were rotated or mirrored, were interlaced, were in
            HDR, in unsupported Dolby Vision, or had another size.
    """

    def __init__(self, scale_of: Callable[[float, float], float]) -> None:
        self._scale_of = scale_of
        self._canvas: tuple[int, int] | None = None
        self._seen: tuple[float, float] = (0, 0)
        self._reformatter = VideoReformatter()
        self._deinterlace = Deinterlacer()
        self._mappers: dict[int, ToneMapper] = {}
        self.notes: Counter[str] = Counter()

    def __call__(self, frame: VideoFrame, pixel_aspect: float) -> np.ndarray:
        """Convert a frame to (H, W, 3) uint8, contiguous.

        Args:
            pixel_aspect: width of a pixel divided by its height.
        """
        orientation = orientation_of(frame)
        low, high = PLAUSIBLE_ASPECTS
        aspect = pixel_aspect if low <= pixel_aspect <= high else 1.0
        # The shorter side of a pixel is stretched, so that no pixel is lost.
        seen = frame.width * max(aspect, 1.0), frame.height / min(aspect, 1.0)
        upright = seen[::-1] if orientation.transposed else seen
        if self._canvas is None:
            scale = min(1.0, self._scale_of(*upright))
            self._seen = upright
            self._canvas = max(1, round(upright[0] * scale)), max(1, round(upright[1] * scale))
        width, height = self._fitted(upright)
        self._count(orientation, aspect, frame, upright)
        target = (height, width) if orientation.transposed else (width, height)
        pixels = orientation.apply(self._scaled(self._deinterlace(frame), *target))
        if (width, height) != self._canvas:
            pixels = _bordered(pixels, *self._canvas)
        return np.ascontiguousarray(pixels)

    def _fitted(self, upright: tuple[float, float]) -> tuple[int, int]:
        assert self._canvas is not None
        if upright == self._seen:
            return self._canvas
        scale = min(self._canvas[0] / upright[0], self._canvas[1] / upright[1])
        width, height = (max(1, round(side * scale)) for side in upright)
        return min(width, self._canvas[0]), min(height, self._canvas[1])

    def _scaled(self, frame: VideoFrame, width: int, height: int) -> np.ndarray:
        if frame.color_trc not in (PQ, HLG):
            scaled = self._reformatter.reformat(
                frame, width, height, "rgb24", interpolation="AREA", threads=1
            )
            return scaled.to_ndarray()
        mapper = self._mappers.setdefault(frame.color_trc, ToneMapper(frame.color_trc))
        scaled = self._reformatter.reformat(
            frame, width, height, "rgb48le", src_colorspace=BT2020, interpolation="AREA", threads=1
        )
        return mapper(scaled.to_ndarray())

    def _count(
        self, orientation: Orientation, aspect: float, frame: VideoFrame, upright: tuple[float, float]
    ) -> None:
        self.notes.update(
            {
                "frames_turned": int(orientation != UPRIGHT),
                "frames_squared": int(aspect != 1.0),
                "frames_deinterlaced": int(is_interlaced(frame)),
                "frames_tone_mapped": int(frame.color_trc in (PQ, HLG)),
                "frames_of_dolby_vision": int(needs_dolby_metadata(frame)),
                "frames_resized": int(upright != self._seen),
            }
        )


def _bordered(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return the image centred in a black one."""
    above, left = (height - pixels.shape[0]) // 2, (width - pixels.shape[1]) // 2
    below, right = height - pixels.shape[0] - above, width - pixels.shape[1] - left
    return cv2.copyMakeBorder(np.ascontiguousarray(pixels), above, below, left, right, cv2.BORDER_CONSTANT)
