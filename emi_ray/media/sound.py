"""Decode audio to one channel at one sample rate, on the time axis of its clip."""

import math

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.stream import Stream

from emi_ray.media.clip import Waveform
from emi_ray.media.downmixing import WEIGHTS, Levels, combine, settle, weights_of
from emi_ray.media.streams import StreamSink
from emi_ray.media.timeline import Placed, SoundTimeline

PLAUSIBLE_RATES_HZ = (1000, 1_000_000)
"""Range of plausible sample rates. Others are a sign of damage: at 1 Hz a thousand samples would become minutes."""

_FULL_SCALE = {"s16": 2**15, "s16p": 2**15, "flt": 1, "fltp": 1}
"""Sample formats that are scaled without FFmpeg, with the number that stands for the level 1."""


class AudioSink(StreamSink[AudioFrame]):
    """Collects audio as mono float32 at ``sample_rate_hz``, at most ``max_audio_s`` from the clip's time zero.

    Gaps between timestamps become silence. Two channels are kept separate to the end, when their levels are known.
    """

    KIND = "audio"

    def __init__(self, sample_rate_hz: int, max_audio_s: float) -> None:
        super().__init__()
        self._rate_hz = sample_rate_hz
        self._max_samples = math.ceil(sample_rate_hz * max_audio_s)
        self._timeline: SoundTimeline[AudioFrame] = SoundTimeline()
        self._chunks: list[np.ndarray] = []
        self._combined: list[np.ndarray] = []
        self._mixing: dict[str, int] = {}
        self._num_samples = 0
        self._to_cut = 0
        self._filled: list[slice] = []
        self._num_cut = 0
        self._mixer: _Mixer | None = None
        self.notes: dict[str, int] = {}

    @property
    def full(self) -> bool:
        return self._num_samples >= self._max_samples

    @property
    def covered_s(self) -> float:
        # Silence before the first sound is not part of the decoded stream.
        start = self._filled[0].stop if self._filled and self._filled[0].start == 0 else 0
        return (self._num_samples - start) / self._rate_hz

    @property
    def end_s(self) -> float:
        return min(self._num_samples, self._max_samples) / self._rate_hz

    def take(self, frame: AudioFrame, stream: Stream) -> None:
        low, high = PLAUSIBLE_RATES_HZ
        if not low <= frame.sample_rate <= high:
            raise ValueError(f"a sample rate of {frame.sample_rate} Hz")
        stamp_s = None if frame.pts is None else frame.pts * self.time_base_s
        start_s = self.clock.read(self.KIND, stamp_s)
        for placed in self._timeline.push(frame, start_s, frame.samples / frame.sample_rate):
            self._place(placed)

    def finish(self) -> Waveform | None:
        """Return the whole waveform; None if there is no audio, or if it must not be used (see ``refusal``)."""
        for placed in self._timeline.finish():
            self._place(placed)
        self._drain()
        if not self._num_samples or self._mixer is None:
            return None
        self._combine(self._mixer)
        if self.refusal:
            return None
        mixed = np.concatenate(self._combined)
        samples, settling = settle(mixed, [gap for gap in self._filled if gap.start < len(mixed)])
        self.notes = {**self._mixing, **settling, **self._account()}
        return Waveform(samples.astype(np.float32, copy=False), self._rate_hz)

    def _account(self) -> dict[str, int]:
        filled = sum(
            min(gap.stop, self._max_samples) - min(gap.start, self._max_samples) for gap in self._filled
        )
        return {
            "sound_filled_ms": round(1000 * filled / self._rate_hz),
            "sound_cut_ms": round(1000 * self._num_cut / self._rate_hz),
            "sound_restarts": self._timeline.num_restarts,
            "sound_stamps_ignored": self._timeline.num_ignored,
            "sound_capped": int(self.has_more or self._num_samples > self._max_samples),
        }

    def _place(self, placed: Placed[AudioFrame]) -> None:
        if self.full:
            self.has_more = True
            return
        if placed.shift_s > 0:
            # The resampler still holds samples of earlier frames, which belong before the silence or the cut.
            self._drain()
            self._fill(round(placed.shift_s * self._rate_hz))
        elif placed.shift_s < 0:
            self._drain()
            self._to_cut += round(-placed.shift_s * self._rate_hz)
        frame = placed.piece
        if self._mixer is None or not self._mixer.suits(frame):
            self._drain()
            # A change of format within a stream must not lose the levels that were measured before it.
            before = self._mixer
            levels = before.levels if before and before.has_levels_of(frame) else None
            self._mixer = _Mixer(frame, self._rate_hz, levels)
            if before and before.meaning != self._mixer.meaning:
                self._combine(before)
        # The position was settled by the timeline, so the timestamp must not influence the resampler.
        frame.pts = None
        self._append(self._mixer.mix(frame))

    def _combine(self, mixer: "_Mixer") -> None:
        """Combine the chunks so far to one channel, as the meaning of their rows demands."""
        if not self._chunks:
            return
        left = self._max_samples - sum(map(len, self._combined))
        # The cap is applied here, because the last chunk may exceed it.
        rows = np.concatenate(self._aligned(), axis=1)[:, :left]
        self._chunks = []
        if not np.isfinite(rows).all():
            self.refusal = "the sound holds values that are not numbers (NaN or infinity)"
            return
        levels = rows.std(axis=1) if mixer.keeps_channels else mixer.levels.of_channels()
        mixed, notes = combine(rows, levels, mixer.are_speakers)
        self._combined.append(mixed)
        most = {name: max(count, self._mixing.get(name, 0)) for name, count in notes.items()}
        self._mixing = {**self._mixing, **most}

    def _fill(self, num_samples: int) -> None:
        start = self._num_samples
        # A wrong timestamp could demand hours of silence, so the silence ends at the cap.
        stop = min(start + num_samples, max(self._max_samples, start))
        self._filled.append(slice(start, stop))
        self._append(np.zeros((1, stop - start), np.float32), may_cut=False)

    def _drain(self) -> None:
        if self._mixer is not None:
            self._append(self._mixer.drain())

    def _append(self, rows: np.ndarray, may_cut: bool = True) -> None:
        """Append samples (R, N), without those that are to be cut."""
        cut = min(self._to_cut, rows.shape[1]) if may_cut else 0
        self._to_cut -= cut
        self._num_cut += cut
        if rows.shape[1] > cut:
            self._chunks.append(rows[:, cut:])
            self._num_samples += rows.shape[1] - cut

    def _aligned(self) -> list[np.ndarray]:
        """Return the chunks with equal numbers of rows. A single channel is duplicated if others have two."""
        num_rows = max(len(chunk) for chunk in self._chunks)
        return [
            chunk if len(chunk) == num_rows else np.broadcast_to(chunk, (num_rows, chunk.shape[1]))
            for chunk in self._chunks
        ]


class _Mixer:
    """Resamples frames of one format, and mixes them unless there are only one or two channels.

    Args:
        levels: levels measured so far, to be continued.
    """

    def __init__(self, frame: AudioFrame, rate_hz: int, levels: Levels | None) -> None:
        self._format = _format_of(frame)
        self._num_channels = frame.layout.nb_channels
        names = [channel.name for channel in frame.layout.channels]
        self._weights = weights_of(names).astype(np.float32) if self._num_channels > 2 else None
        self.are_speakers = self._num_channels > 2 and all(name in WEIGHTS for name in names)
        self.levels = levels or Levels(self._num_channels)
        # FFmpeg's resampler takes 60 µs for each frame, even if it only scales numbers.
        is_plain = frame.format.name in _FULL_SCALE and frame.sample_rate == rate_hz
        self._resampler = (
            None if is_plain and self._num_channels <= 2 else _resampler(frame.layout.name, rate_hz)
        )

    def suits(self, frame: AudioFrame) -> bool:
        return _format_of(frame) == self._format

    @property
    def meaning(self) -> tuple[bool, bool, int]:
        """What the rows are. A change from stereo to 5.1, as in recordings of television, changes it."""
        return self.keeps_channels, self.are_speakers, 0 if self.keeps_channels else self._num_channels

    @property
    def keeps_channels(self) -> bool:
        """Whether the rows are the channels themselves. Then their levels are measured at the end."""
        return self._weights is None

    def has_levels_of(self, frame: AudioFrame) -> bool:
        return frame.layout.nb_channels == self._num_channels

    def mix(self, frame: AudioFrame | None) -> np.ndarray:
        """Return (R, N): the channel, both channels, or the mix and the rest that it omits."""
        if self._resampler is None:
            return np.empty((1, 0), np.float32) if frame is None else _scaled(frame)
        parts = [self._samples(part) for part in self._resampler.resample(frame)]
        if not parts:
            return np.empty((1, 0), np.float32)
        samples = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        if self._weights is None:
            return samples
        self.levels.add(samples)
        return np.matmul(self._weights, samples)

    def _samples(self, part: AudioFrame) -> np.ndarray:
        """Return samples (C, N), a view of the frame's memory."""
        count = part.samples * self._num_channels
        return np.frombuffer(memoryview(part.planes[0]), np.float32, count).reshape(-1, self._num_channels).T

    def drain(self) -> np.ndarray:
        """Return the samples that are left in the resampler. It is reset for the next frame."""
        rest = self.mix(None)
        if self._resampler is not None:
            self._resampler = _resampler(self._resampler.layout.name, self._resampler.rate)
        return rest


def _resampler(layout: str, rate_hz: int) -> av.AudioResampler:
    # Packed samples: PyAV does not reliably find the planes of a frame with more than seven channels.
    return av.AudioResampler(format="flt", layout=layout, rate=rate_hz)


def _scaled(frame: AudioFrame) -> np.ndarray:
    """Return samples (C, N) float32 of a frame whose format is in ``_FULL_SCALE``; the same as FFmpeg's resampler."""
    samples = frame.to_ndarray() / np.float32(_FULL_SCALE[frame.format.name])
    return samples if frame.format.is_planar else samples.reshape(-1, frame.layout.nb_channels).T


def _format_of(frame: AudioFrame) -> tuple[object, ...]:
    return frame.format.name, frame.layout.name, frame.sample_rate
