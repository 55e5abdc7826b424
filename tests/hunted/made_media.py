"""Odd media files whose contents are known, for the hunted tests of sound and pictures."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.packet import Packet

from emi_ray.config import MediaSettings
from emi_ray.media.clip import DecodedClip
from emi_ray.media.decode import decode_clip
from emi_ray.media.source import ClipSource

RATE_HZ = 16000
TICKS_HZ = 12800


def sine(seconds: float, hz: float = 440.0, level: float = 0.5, rate_hz: int = RATE_HZ) -> np.ndarray:
    """(N,) float32."""
    return (level * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate_hz)) / rate_hz)).astype(np.float32)


def picture(width: int = 96, height: int = 64, grey: int = 128) -> np.ndarray:
    """(H, W, 3): a white disc left of the middle, and a dark bar at the top, on grey: no two turns look alike."""
    pixels = np.full((height, width, 3), grey, np.uint8)
    cv2.circle(pixels, (width // 3, height // 2), height // 4, (255, 255, 255), -1)
    pixels[: height // 8] = 20
    return pixels


def add_pictures(
    container: av.container.OutputContainer,
    pictures: Sequence[np.ndarray],
    *,
    rate_hz: int = 25,
    codec: str = "libx264",
    start_s: float = 0.0,
    aspect: Fraction | None = None,
    default: bool = True,
) -> list[Packet]:
    """A video stream of ``pictures``; its packets, to be muxed by the caller."""
    stream = container.add_stream(codec, rate=rate_hz)
    stream.height, stream.width = pictures[0].shape[:2]
    stream.pix_fmt = {"mjpeg": "yuvj420p", "png": "rgb24"}.get(codec, "yuv420p")
    stream.time_base = stream.codec_context.time_base = Fraction(1, TICKS_HZ)
    if aspect is not None:
        stream.codec_context.sample_aspect_ratio = aspect
    if codec == "libx264":
        stream.options = {"crf": "10", "preset": "veryfast"}
    stream.disposition = av.stream.Disposition.default if default else av.stream.Disposition(0)
    packets = []
    for index, pixels in enumerate(pictures):
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.pts, frame.time_base = round((start_s + index / rate_hz) * TICKS_HZ), Fraction(1, TICKS_HZ)
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def add_sound(
    container: av.container.OutputContainer,
    samples: np.ndarray,
    *,
    codec: str = "pcm_s16le",
    start_s: float = 0.0,
    layout: str = "mono",
    rate_hz: int = RATE_HZ,
    default: bool = True,
) -> list[Packet]:
    """An audio stream of ``samples`` (N,) or (C, N); its packets of 20 ms, to be muxed by the caller."""
    stream = container.add_stream(codec, rate=rate_hz, layout=layout)
    stream.time_base = Fraction(1, rate_hz)
    stream.disposition = av.stream.Disposition.default if default else av.stream.Disposition(0)
    form = stream.codec_context.format
    size = stream.codec_context.frame_size or rate_hz // 50
    packets = []
    samples = np.atleast_2d(samples)
    for first in range(0, samples.shape[1], size):
        frame = sound_frame(samples[:, first : first + size], form.name, layout, rate_hz)
        frame.pts, frame.time_base = round(start_s * rate_hz) + first, Fraction(1, rate_hz)
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def sound_frame(samples: np.ndarray, form: str, layout: str, rate_hz: int) -> av.AudioFrame:
    """A frame of ``samples`` (C, N) in a sample format."""
    scale, kind = {"s16": (32767, np.int16), "s32": (2**31 - 1, np.int32), "flt": (1, np.float32)}.get(
        form.removesuffix("p"), (1, np.float64)
    )
    values = (
        (samples * scale).astype(kind) if scale == 1 else np.round(samples.astype(float) * scale).astype(kind)
    )
    if form == "u8":
        values = np.round(samples.astype(float) * 127 + 128).astype(np.uint8)
    if not form.endswith("p"):
        values = values.T.reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(values), format=form, layout=layout)
    frame.sample_rate = rate_hz
    return frame


def mux(container: av.container.OutputContainer, *streams: Sequence[Packet]) -> None:
    """Write the packets of all streams in the order of their times."""
    packets = [packet for stream in streams for packet in stream if packet.dts is not None]
    for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
        container.mux(packet)


def write_sound(path: Path, samples: np.ndarray, **options: object) -> Path:
    """A file of sound alone, see :func:`add_sound`."""
    with av.open(str(path), "w") as container:
        mux(container, add_sound(container, samples, **options))
    return path


def write_film(path: Path, pictures: Sequence[np.ndarray], **options: object) -> Path:
    """A file of pictures alone, see :func:`add_pictures`."""
    with av.open(str(path), "w") as container:
        mux(container, add_pictures(container, pictures, **options))
    return path


def decode(
    path: Path | bytes, *needs: str, media: MediaSettings | None = None, **source: object
) -> DecodedClip:
    """Decode a clip, for frames and sound unless other needs are named."""
    place = str(path) if isinstance(path, Path) else path
    wanted = frozenset(needs or ("frames", "waveform"))
    return decode_clip(ClipSource("clip", video=place, **source), media or MediaSettings(), wanted)


def level(samples: np.ndarray) -> float:
    """Root of the mean square."""
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def decibels(samples: np.ndarray, reference: np.ndarray) -> float:
    """Level over that of a reference."""
    return float(20 * np.log10(level(samples) / level(reference)))
