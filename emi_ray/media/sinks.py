"""The consumers of a clip's video frames: whole frames and faces."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from emi_ray.config import FaceSettings
from emi_ray.media.clip import Faces, Frames
from emi_ray.media.clock import Clock
from emi_ray.media.detection import build_finder
from emi_ray.media.frame_times import Timed
from emi_ray.media.pictures import RgbConverter
from emi_ray.media.sampling import FrameSampler
from emi_ray.media.streams import StreamSink
from emi_ray.media.tracking import FaceTracker

FALLBACK_FRAME_RATE_HZ = 25.0
PLAUSIBLE_FRAME_RATES_HZ = (1.0, 120.0)
MAX_ASPECT = 4
"""Maximum of a frame's longer side, in multiples of ``frame_side_px``."""
WORKING_SIDE_PX = 1920
"""Maximum of the longer side of frames that faces are cut from."""


class FrameConsumer(Protocol):
    """Receives the sampled frames of a clip."""

    def take(self, frame: VideoFrame, time_s: float, pixel_aspect: float) -> None:
        """Process one sampled frame.

        Args:
            time_s: seconds since the clip's time zero.
            pixel_aspect: width of a pixel divided by its height.
        """


@dataclass(frozen=True)
class _Picture:
    """A decoded frame.

    Attributes:
        coded_aspect: width of a pixel divided by its height, as the stream told when the frame was decoded.
    """

    frame: VideoFrame
    coded_aspect: Fraction


class VideoSink(StreamSink[VideoFrame]):
    """Samples a video stream and passes the kept frames to ``consumers``."""

    KIND = "video"

    def __init__(self, rate_hz: float, max_frames: int, consumers: Sequence[FrameConsumer]) -> None:
        super().__init__()
        self._rate_hz, self._max_frames = rate_hz, max_frames
        self._consumers = consumers
        self.sampler: FrameSampler[_Picture] = FrameSampler(rate_hz, max_frames, 1 / FALLBACK_FRAME_RATE_HZ)
        self._last_frame_s = 0.0
        self._aspect = 1.0
        self._coded_aspect: Fraction | None = None

    def open(self, stream: Stream, clock: Clock) -> None:
        super().open(stream, clock)
        assert isinstance(stream, VideoStream)
        self.sampler = FrameSampler(self._rate_hz, self._max_frames, _frame_interval_s(stream))
        if stream.codec_context is not None:
            self._aspect = float(stream.sample_aspect_ratio or 1)

    @property
    def full(self) -> bool:
        return self.sampler.full

    @property
    def covered_s(self) -> float:
        return self.sampler.last_s - self.sampler.first_s + self._last_frame_s

    @property
    def end_s(self) -> float:
        """End of the latest frame, in seconds since time zero."""
        return self.sampler.last_s + self._last_frame_s

    def needs(self, time_s: float | None) -> bool:
        return self.sampler.is_due(time_s)

    def take(self, frame: VideoFrame, stream: VideoStream) -> None:
        # The last frames come out of the decoder without a time base, so frame.time cannot be used.
        stamp_s = None if frame.pts is None else frame.pts * self.time_base_s
        picture = _Picture(frame, stream.codec_context.sample_aspect_ratio or Fraction(1))
        self._last_frame_s = (frame.duration or 0) * self.time_base_s
        self._pass_on(self.sampler.push(picture, self.clock.read(self.KIND, stamp_s)))

    def end(self) -> None:
        self._pass_on(self.sampler.finish())

    def _pass_on(self, kept: Sequence[Timed[_Picture]]) -> None:
        self.has_more |= self.sampler.left_out
        for timed in kept:
            aspect = self._aspect_of(timed.frame.coded_aspect)
            for consumer in self._consumers:
                consumer.take(timed.frame.frame, timed.time_s, aspect)

    def _aspect_of(self, coded: Fraction) -> float:
        """Return the pixel aspect ratio of the container, unless that of the stream has changed since the first
        frame.

        Args:
            coded: the ratio that the stream tells for the next sampled frame.
        """
        # The container's ratio is preferred at the start, but it cannot tell of a change within the stream.
        if self._coded_aspect not in (None, coded):
            self._aspect = float(coded)
        self._coded_aspect = coded
        return self._aspect


class FrameCollector:
    """Collects whole frames, all with the size of the first one.

    The shorter side is at most ``side_px``; never enlarged.
    """

    def __init__(self, side_px: int) -> None:
        self.convert = RgbConverter(
            lambda width, height: min(side_px / min(width, height), MAX_ASPECT * side_px / max(width, height))
        )
        self._pixels: list[np.ndarray] = []
        self._times_s: list[float] = []

    def take(self, frame: VideoFrame, time_s: float, pixel_aspect: float) -> None:
        self._pixels.append(self.convert(frame, pixel_aspect))
        self._times_s.append(time_s)

    def finish(self) -> Frames | None:
        """Return all frames, or None if there are none."""
        if not self._pixels:
            return None
        pixels = np.empty((len(self._pixels), *self._pixels[0].shape), np.uint8)
        # Taken from the end, because list.pop() is cheap only there.
        for index in reversed(range(len(pixels))):
            pixels[index] = (
                self._pixels.pop()
            )  # freed one by one, so that memory never holds two copies of all
        return Frames(pixels, np.array(self._times_s, np.float32))


class FaceSearcher:
    """Tracks a face through the sampled frames, whose longer side is at most ``WORKING_SIDE_PX``."""

    def __init__(self, settings: FaceSettings) -> None:
        self._tracker = FaceTracker(build_finder(settings), settings)
        self.convert = RgbConverter(lambda width, height: WORKING_SIDE_PX / max(width, height))

    @property
    def num_frames(self) -> int:
        return self._tracker.num_frames

    @property
    def num_frames_of_others(self) -> int:
        """After :meth:`finish`: number of frames with a face, but not that of the tracked person."""
        return self._tracker.num_frames_of_others

    def take(self, frame: VideoFrame, time_s: float, pixel_aspect: float) -> None:
        self._tracker.see(self.convert(frame, pixel_aspect), time_s)

    def finish(self) -> Faces | None:
        """Return the face, or None if no frame had one."""
        return self._tracker.finish()


def _frame_interval_s(stream: Stream) -> float:
    """Return the time between frames in seconds according to the container; 1/25 s if that is implausible."""
    rate_hz = float(stream.average_rate or 0)
    low, high = PLAUSIBLE_FRAME_RATES_HZ
    return 1 / (rate_hz if low <= rate_hz <= high else FALLBACK_FRAME_RATE_HZ)
