"""Small media files whose contents are known, for the tests of ``emi_ray.media``."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from emi_ray.config import MediaSettings
from emi_ray.media.clip import DecodedClip
from emi_ray.media.decode import decode_clip
from emi_ray.media.source import ClipSource

TONE_HZ = 440.0
TICKS_HZ = 12800


def times(num_frames: int, rate_hz: float = 25.0) -> list[float]:
    return [index / rate_hz for index in range(num_frames)]


def grey(index: int) -> int:
    """The brightness of frame ``index``, so that a frame tells which it is."""
    return 16 + 3 * index


def tone(seconds: float, rate_hz: int) -> np.ndarray:
    """A sine of 440 Hz, half of full scale."""
    return (0.5 * np.sin(2 * np.pi * TONE_HZ * np.arange(round(seconds * rate_hz)) / rate_hz)).astype(
        np.float32
    )


def write_video(
    path: Path,
    times_s: Sequence[float],
    *,
    sound_s: float = 0.0,
    width: int = 64,
    height: int = 48,
    codec: str = "libx264",
    container_options: dict[str, str] | None = None,
    rate_hz: int = 25,
    turn: int = 0,
) -> Path:
    """H.264 frames of grey ``grey(index)`` at ``times_s``, the left third black, with AAC sound if wanted."""
    with av.open(str(path), "w", container_options=container_options or {}) as container:
        video = container.add_stream(codec, rate=rate_hz)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.time_base = video.codec_context.time_base = Fraction(1, TICKS_HZ)
        if codec == "libx264":
            video.options = {"crf": "4", "preset": "veryfast"}
        if turn:
            video.set_display_rotation(turn)
        audio = container.add_stream("aac", rate=44100, layout="mono") if sound_s else None
        for index, time_s in enumerate(times_s):
            pixels = np.full((height, width, 3), grey(index), np.uint8)
            pixels[:, : width // 3] = 0
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = round(time_s * TICKS_HZ), Fraction(1, TICKS_HZ)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio:
            container.mux(audio.encode(_audio_frame(tone(sound_s, 44100), 44100)))
            container.mux(audio.encode(None))
    return path


def write_wav(path: Path, samples: np.ndarray, rate_hz: int) -> Path:
    """16-bit PCM; ``samples`` (N,) mono or (2, N) stereo."""
    layout = "mono" if samples.ndim == 1 else "stereo"
    with av.open(str(path), "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=rate_hz, layout=layout)
        interleaved = np.round(np.atleast_2d(samples).T.reshape(1, -1) * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(interleaved, format="s16", layout=layout)
        frame.sample_rate = rate_hz
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def decode(
    video: Path | bytes | None, *needs: str, media: MediaSettings | None = None, **source: object
) -> DecodedClip:
    """Decode a clip, for frames and sound unless other needs are named."""
    place = str(video) if isinstance(video, Path) else video
    wanted = frozenset(needs or ("frames", "waveform"))
    return decode_clip(ClipSource("clip", video=place, **source), media or MediaSettings(), wanted)


def indices(clip: DecodedClip) -> list[int]:
    """Which frames were kept, by their brightness."""
    assert clip.frames is not None
    brightness = clip.frames.pixels[:, :, -8:].mean(axis=(1, 2, 3))
    return [round((float(value) - grey(0)) / 3) for value in brightness]


def _audio_frame(samples: np.ndarray, rate_hz: int) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = rate_hz, 0, Fraction(1, rate_hz)
    return frame
