"""Decoded frames as a person sees them: square pixels, upright, not mirrored, progressive, standard dynamic range."""

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
"""A pixel that a file declares narrower or wider than this is taken for square."""
BT2020 = 9
UNSPECIFIED, IPT = 2, 15
"""Matrix coefficients by their numbers in ITU-T H.273; IPT is what Dolby Vision's profile 5 holds."""


@dataclass(frozen=True)
class Orientation:
    """How a picture is turned and mirrored: transposed first, then flipped left to right, then upside down."""

    transposed: bool = False
    mirrored: bool = False
    flipped: bool = False

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """A view of (H, W, C), turned."""
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
"""By the number of quarter turns to the left."""


def orientation_of(frame: VideoFrame) -> Orientation:
    """What the frame's display matrix asks for, to the nearest quarter turn.

    The matrix maps (x, y) to (a x + c y, b x + d y), and holds a, b, -, c, d, - in 16.16 fixed point (ISO/IEC
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
    """Whether a frame's colours are right only after Dolby Vision's metadata (RPU) is applied, which is not done.

    So it is in profile 5. The pictures of other profiles are ordinary HDR or SDR without it.
    """
    if frame.colorspace == IPT:
        return True
    kinds = {data.type for data in _side_data(frame) or ()}
    return frame.colorspace == UNSPECIFIED and bool(kinds & {Type.DOVI_METADATA, Type.DOVI_RPU_BUFFER})


def _side_data(frame: VideoFrame) -> list[SideData] | None:
    """What accompanies a frame; None where PyAV cannot list it, because one is of a kind it does not know (EXIF)."""
    try:
        return list(cast(Iterable[SideData], frame.side_data))
    except ValueError:
        return None


class RgbConverter:
    """Frames of one clip as RGB arrays, all of the size that the first one gets.

    Frames of another size or shape than the first are fitted into it and bordered in black, as in a player's window.

    Args:
        scale_of: (width, height) of the first frame as it is seen → the factor to scale it by; above 1 is taken as 1.

    Attributes:
        notes: how many frames had pixels that were not square, were turned or mirrored, were interlaced, came in HDR,
            in Dolby Vision that is not understood, or in another size.
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
        """(H, W, 3) uint8, contiguous.

        Args:
            pixel_aspect: width of a pixel over its height.
        """
        orientation = orientation_of(frame)
        low, high = PLAUSIBLE_ASPECTS
        aspect = pixel_aspect if low <= pixel_aspect <= high else 1.0
        # The shorter side grows, so that no pixel is lost.
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
    """The picture in the middle of a black one."""
    above, left = (height - pixels.shape[0]) // 2, (width - pixels.shape[1]) // 2
    below, right = height - pixels.shape[0] - above, width - pixels.shape[1] - left
    return cv2.copyMakeBorder(np.ascontiguousarray(pixels), above, below, left, right, cv2.BORDER_CONSTANT)
