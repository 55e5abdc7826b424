"""What the streams of a clip become: a waveform, whole frames, faces."""

from collections.abc import Sequence
from typing import Protocol

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.stream import Stream
from av.video.frame import VideoFrame

from emi_ray.config import FaceSettings
from emi_ray.media.clip import Faces, Frames, Waveform
from emi_ray.media.detection import build_finder
from emi_ray.media.sampling import FrameSampler
from emi_ray.media.streams import StreamSink
from emi_ray.media.tracking import FaceTracker

FALLBACK_FRAME_RATE_HZ = 25.0
PLAUSIBLE_FRAME_RATES_HZ = (1.0, 120.0)
DOWNMIX = {"rematrix_maxval": "1.0"}
"""Channels are averaged, as librosa does; swresample's default would add 3 dB to a stereo voice, and clip it."""
MAX_ASPECT = 4
"""Whole frames are shrunk until the longer side is at most this many times ``frame_side_px``."""
WORKING_SIDE_PX = 1920
"""Longer side of the frames that faces are cut from."""


class AudioSink(StreamSink[AudioFrame]):
    """Sound as mono float32 at ``sample_rate_hz``, at most ``max_audio_s`` of it, gaps closed."""

    KIND = "audio"

    def __init__(self, sample_rate_hz: int, max_audio_s: float) -> None:
        super().__init__()
        self._rate_hz = sample_rate_hz
        self._max_samples = round(sample_rate_hz * max_audio_s)
        self._chunks: list[np.ndarray] = []
        self._num_samples = 0
        self._resampler: av.AudioResampler | None = None
        self._format: tuple[object, ...] = ()

    @property
    def full(self) -> bool:
        return self._num_samples >= self._max_samples

    @property
    def duration_s(self) -> float:
        return self._num_samples / self._rate_hz

    def take(self, frame: AudioFrame) -> None:
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if kind != self._format:
            self._drain()
            self._format = kind
            self._resampler = av.AudioResampler(
                format="flt", layout="mono", rate=self._rate_hz, options=DOWNMIX
            )
        frame.pts = None
        self._resample(frame)

    def finish(self) -> Waveform | None:
        """All sound, or None if there is none."""
        self._drain()
        if not self._num_samples:
            return None
        samples = np.concatenate(self._chunks)[: self._max_samples]
        return Waveform(np.clip(np.nan_to_num(samples), -1, 1, out=samples), self._rate_hz)

    def _resample(self, frame: AudioFrame | None) -> None:
        if self._resampler is None:
            return
        for part in self._resampler.resample(frame):
            self._chunks.append(part.to_ndarray().reshape(-1))
            self._num_samples += part.samples

    def _drain(self) -> None:
        self._resample(None)
        self._resampler = None


class FrameConsumer(Protocol):
    """Takes the sampled frames of a clip."""

    def take(self, frame: VideoFrame, time_s: float) -> None:
        """Take one sampled frame, ``time_s`` after the first."""


class VideoSink(StreamSink[VideoFrame]):
    """Samples a video stream and hands the kept frames to ``consumers``."""

    KIND = "video"

    def __init__(self, rate_hz: float, max_frames: int, consumers: Sequence[FrameConsumer]) -> None:
        super().__init__()
        self._rate_hz, self._max_frames = rate_hz, max_frames
        self._consumers = consumers
        self.sampler = FrameSampler(rate_hz, max_frames, 1 / FALLBACK_FRAME_RATE_HZ)
        self._time_base_s, self._last_frame_s = 1.0, 0.0

    def open(self, stream: Stream) -> None:
        super().open(stream)
        self._time_base_s = float(stream.time_base or 1)
        self.sampler = FrameSampler(self._rate_hz, self._max_frames, _frame_interval_s(stream))

    @property
    def full(self) -> bool:
        return self.sampler.full

    @property
    def duration_s(self) -> float:
        return self.sampler.last_s + self._last_frame_s

    def needs(self, timestamp_s: float | None) -> bool:
        return self.sampler.is_due(timestamp_s)

    def take(self, frame: VideoFrame) -> None:
        # The last frames leave the decoder without a time base, so that frame.time cannot be used.
        time_s = self.sampler.place(None if frame.pts is None else frame.pts * self._time_base_s)
        self._last_frame_s = (frame.duration or 0) * self._time_base_s
        if time_s is not None:
            for consumer in self._consumers:
                consumer.take(frame, time_s)


class FrameCollector:
    """Whole frames, the shorter side at most ``side_px``, never enlarged, all of the first one's size."""

    def __init__(self, side_px: int) -> None:
        self._side_px = side_px
        self._convert: RgbConverter | None = None
        self._pixels: list[np.ndarray] = []
        self._times_s: list[float] = []

    def take(self, frame: VideoFrame, time_s: float) -> None:
        if self._convert is None:
            short, long = sorted((frame.width, frame.height))
            self._convert = RgbConverter(frame, min(self._side_px / short, MAX_ASPECT * self._side_px / long))
        self._pixels.append(self._convert(frame))
        self._times_s.append(time_s)

    def finish(self) -> Frames | None:
        """All frames, or None if there are none."""
        if not self._pixels:
            return None
        pixels = np.empty((len(self._pixels), *self._pixels[0].shape), np.uint8)
        for index in reversed(range(len(pixels))):
            pixels[index] = self._pixels.pop()  # never all of them twice
        return Frames(pixels, np.array(self._times_s, np.float32))


class FaceSearcher:
    """Follows a face through the sampled frames, which it sees at most ``WORKING_SIDE_PX`` wide or high."""

    def __init__(self, settings: FaceSettings) -> None:
        self._tracker = FaceTracker(build_finder(settings), settings)
        self._convert: RgbConverter | None = None

    @property
    def num_frames(self) -> int:
        return self._tracker.num_frames

    def take(self, frame: VideoFrame, time_s: float) -> None:
        if self._convert is None:
            self._convert = RgbConverter(frame, WORKING_SIDE_PX / max(frame.width, frame.height))
        self._tracker.see(self._convert(frame), time_s)

    def finish(self) -> Faces | None:
        """The face, or None if no frame had one."""
        return self._tracker.finish()


class RgbConverter:
    """Frames as RGB arrays, scaled by ``scale`` (at most 1), turned upright, all of the first frame's size.

    Rotation is taken from the display matrix that phones write; mirroring is not undone.
    """

    def __init__(self, first: VideoFrame, scale: float) -> None:
        scale = min(1.0, scale)
        self._width, self._height = max(1, round(first.width * scale)), max(1, round(first.height * scale))
        self._quarter_turns = round(first.rotation / 90) % 4

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        """(H, W, 3) uint8."""
        scaled = frame.reformat(self._width, self._height, "rgb24", interpolation="AREA")
        return np.ascontiguousarray(np.rot90(scaled.to_ndarray(), self._quarter_turns))


def _frame_interval_s(stream: Stream) -> float:
    """Time between frames by the container's word, or 1/25 s where its word is absurd."""
    rate_hz = float(stream.average_rate or 0)
    low, high = PLAUSIBLE_FRAME_RATES_HZ
    return 1 / (rate_hz if low <= rate_hz <= high else FALLBACK_FRAME_RATE_HZ)
