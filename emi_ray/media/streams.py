"""One pass over a media file: packets are demuxed once, and decoded frames go to the sinks that want them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Generic, Literal, TypeVar

import av
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Discard, Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from emi_ray.media.source import UnreadableError

READ_BYTES = 1 << 18
"""Read at a time: enough that a file in an object store does not cost thousands of requests."""
TRUNCATED_SHARE = 0.9
"""A stream of which less than this share of its declared duration can be decoded counts as truncated."""


AnyFrame = TypeVar("AnyFrame", VideoFrame, AudioFrame)


class StreamSink(ABC, Generic[AnyFrame]):
    """What becomes of the frames of one stream.

    After :func:`read_streams`, ``found`` tells whether the file has a stream of this kind, ``codec`` its
    codec (None: no decoder for it), ``num_decoded`` how many frames the decoder gave, ``packets_corrupt`` how
    many packets it refused, and ``error`` the first of the decoder's complaints.
    """

    KIND: Literal["video", "audio"]

    def __init__(self) -> None:
        self.found = False
        self.codec: str | None = None
        self.declared_s = 0.0
        self.num_decoded = 0
        self.packets_corrupt = 0
        self.error = ""

    def open(self, stream: Stream) -> None:
        """Called once, before the first frame. The stream itself must not outlive its container."""
        self.found = True
        self.codec = stream.codec_context.name if stream.codec_context is not None else None
        self.declared_s = float((stream.duration or 0) * (stream.time_base or 0))

    @property
    @abstractmethod
    def full(self) -> bool:
        """True once no further frame is wanted."""

    @property
    @abstractmethod
    def duration_s(self) -> float:
        """Seconds of what was decoded."""

    @abstractmethod
    def take(self, frame: AnyFrame) -> None:
        """Take the next decoded frame, in presentation order."""

    def needs(self, timestamp_s: float | None) -> bool:
        """False where a frame of this timestamp, were it the next, would surely be of no use."""
        return True

    @property
    def truncated(self) -> bool:
        """Whether what could be decoded of the stream ends well before the end that its file declares."""
        return (
            bool(self.num_decoded)
            and not self.full
            and self.duration_s < TRUNCATED_SHARE * self.declared_s - 0.5
        )


def read_streams(file: BinaryIO, sinks: Sequence[StreamSink[Any]]) -> None:
    """Decode the first stream of each sink's kind, all in one pass; other streams are discarded.

    Frames that neither a sink nor any other frame needs are not decoded, which spares 14–41 %
    of the work on H.264. Packets that cannot be decoded are counted and skipped; a file that breaks off gives
    what it has. The decoders use one thread each: many clips are decoded at a time, and what a damaged stream
    gives is then the same on every machine.

    Raises:
        UnreadableError: ffmpeg makes nothing of the file.
    """
    try:
        container = av.open(file, "r", metadata_errors="replace", buffer_size=READ_BYTES)
    except (FFmpegError, OSError, ValueError) as error:
        raise UnreadableError(f"not a media file that ffmpeg can read ({explain(error)})") from error
    with container:
        outlets = _open(container, sinks)
        _pump(container, outlets)
        for outlet in outlets.values():
            outlet.decode(None)


def explain(error: Exception) -> str:
    """ffmpeg's own words, without numbers and places."""
    return getattr(error, "strerror", None) or str(error)


@dataclass(frozen=True)
class _Outlet:
    """An open stream and the sink that its frames go to."""

    stream: VideoStream | AudioStream
    sink: StreamSink[Any]

    def decode(self, packet: Packet | None) -> None:
        """Decode one packet, or, for None, what the decoder still holds back."""
        if self.sink.full:
            return
        context = self.stream.codec_context
        if packet is not None:
            context.skip_frame = "DEFAULT" if self.sink.needs(_time_of(packet)) else "NONREF"
        try:
            for frame in context.decode(packet):
                self.sink.num_decoded += 1
                self.sink.take(frame)
        except EOFError:
            return
        except (FFmpegError, ValueError) as error:
            self.sink.packets_corrupt += 1
            self.sink.error = self.sink.error or explain(error)


def _open(container: InputContainer, sinks: Sequence[StreamSink[Any]]) -> dict[int, _Outlet]:
    """Give each sink the first stream of its kind; a cover picture is not a video stream."""
    waiting: dict[str, StreamSink[Any]] = {sink.KIND: sink for sink in sinks}
    outlets: dict[int, _Outlet] = {}
    for stream in container.streams:
        is_cover = bool(stream.disposition & Disposition.attached_pic)
        sink = None if is_cover else waiting.pop(stream.type, None)
        if sink is None or not isinstance(stream, VideoStream | AudioStream):
            stream.discard = Discard.all
            continue
        sink.open(stream)
        if stream.codec_context is not None:
            stream.codec_context.thread_count = 1
            outlets[stream.index] = _Outlet(stream, sink)
    return outlets


def _pump(container: InputContainer, outlets: dict[int, _Outlet]) -> None:
    """Demux until the file ends, breaks off, or nobody wants more."""
    if not outlets:
        return
    packets = container.demux([outlet.stream for outlet in outlets.values()])
    while not all(outlet.sink.full for outlet in outlets.values()):
        try:
            packet = next(packets, None)
        except (FFmpegError, OSError, ValueError) as error:
            for outlet in outlets.values():
                outlet.sink.error = outlet.sink.error or explain(error)
            return
        if packet is None:
            return
        if packet.size:
            outlets[packet.stream_index].decode(packet)


def _time_of(packet: Packet) -> float | None:
    """Presentation time in seconds."""
    if packet.pts is None or packet.time_base is None:
        return None
    return float(packet.pts * packet.time_base)
