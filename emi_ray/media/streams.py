"""One pass over a media file: packets are demuxed once, and decoded frames go to the sinks that want them."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Generic, Literal, TypeVar, cast

import cv2
from av.audio.frame import AudioFrame
from av.container import InputContainer
from av.error import FFmpegError
from av.format import Flags
from av.packet import Packet
from av.stream import Discard, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from emi_ray.media.clock import Clock
from emi_ray.media.containers import LIMITS, MAX_PIXELS, explain, open_container
from emi_ray.media.stream_selection import Choice, MediaStream, choose, count_packets, needs_counting

Kind = Literal["video", "audio"]

TRUNCATED_SHARE = 0.9
"""A stream of which less than this share of its declared duration can be decoded counts as truncated."""
TS_DISCONT = cast(int, Flags.ts_discont.value)
DECODING_ERRORS = (FFmpegError, OSError, ValueError, ArithmeticError, MemoryError, cv2.error)
"""What a damaged stream raises in decoders, in numpy and in OpenCV."""

AnyFrame = TypeVar("AnyFrame", VideoFrame, AudioFrame)


class StreamSink(ABC, Generic[AnyFrame]):
    """What becomes of the frames of one stream.

    After :func:`read_streams`, ``found`` tells whether the file has a stream of this kind, ``codec`` its codec
    (None: no decoder for it), ``said`` what else there was to choose from, ``num_decoded`` how many frames the
    decoder gave, ``packets_corrupt`` how many packets it refused, ``error`` the first of the decoder's complaints,
    ``has_more`` whether the stream goes on where nothing more was wanted, and ``refusal``, where it is not empty,
    why nothing of the stream may be used.
    """

    KIND: Kind

    def __init__(self) -> None:
        self.found = False
        self.codec: str | None = None
        self.said = ""
        self.declared_s = 0.0
        self.num_decoded = 0
        self.packets_corrupt = 0
        self.error = ""
        self.refusal = ""
        self.has_more = False
        self.clock = Clock((), jumps=False)
        self.time_base_s = 0.0

    def open(self, stream: Stream, clock: Clock) -> None:
        """Called once, before the first frame. The stream itself must not outlive its container."""
        self.found = True
        self.clock = clock
        self.codec = stream.codec_context.name if stream.codec_context is not None else None
        self.time_base_s = float(stream.time_base or 0)
        self.declared_s = (stream.duration or 0) * self.time_base_s

    @property
    @abstractmethod
    def full(self) -> bool:
        """True once no further frame is wanted."""

    @property
    @abstractmethod
    def covered_s(self) -> float:
        """Seconds from the start of the first to the end of the last of what was decoded."""

    @abstractmethod
    def take(self, frame: AnyFrame, stream: Any) -> None:
        """Take the next decoded frame of ``stream``, in presentation order."""

    def needs(self, time_s: float | None) -> bool:
        """False where a frame at this time of the clock, were it the next, would surely be of no use."""
        return True

    @property
    def truncated(self) -> bool:
        """Whether what could be decoded of the stream ends well before the end that its file declares."""
        return (
            bool(self.num_decoded)
            and not self.full
            and self.covered_s < TRUNCATED_SHARE * self.declared_s - 0.5
        )


@dataclass(frozen=True)
class FileNotes:
    """What is true of a whole file: its declared duration in seconds (0: unknown), and jumps of its timestamps."""

    declared_s: float
    num_jumps: int


def read_streams(file: BinaryIO, sinks: Sequence[StreamSink[Any]], serving: Collection[Kind]) -> FileNotes:
    """Decode the stream of each sink's kind that a player would choose, all in one pass; others are discarded.

    Frames that neither a sink nor any other frame needs are not decoded, which spares 14–41 %
    of the work on H.264. Packets that cannot be decoded are counted and skipped; a file that breaks off gives
    what it has. The decoders use one thread each: many clips are decoded at a time, and what a damaged stream
    gives is then the same on every machine.

    Args:
        serving: the kinds that the clip takes from this file, now or at another time: time zero is the start of the
            earliest of these streams, whatever is decoded now.

    Raises:
        UnreadableError: ffmpeg makes nothing of the file, or it is not self-contained.
    """
    with _opened(file, serving) as (container, choices):
        starts = [_start_of(choice.stream) for choice in choices.values()]
        clock = Clock(starts, jumps=bool(container.format.flags & TS_DISCONT))
        outlets = _connect(container, choices, clock, sinks)
        _pump(container, outlets)
        for outlet in outlets.values():
            outlet.decode(None)
        return FileNotes((container.duration or 0) / 1e6, clock.num_jumps)


@contextmanager
def _opened(file: BinaryIO, kinds: Collection[Kind]) -> Iterator[tuple[InputContainer, dict[Kind, Choice]]]:
    """The open file and the stream of each kind; a choice that the header does not decide costs a second opening."""
    counts: dict[int, int] = {}
    container = open_container(file)
    try:
        if needs_counting(container, kinds):
            counts = count_packets(container)
            container.close()
            file.seek(0)
            container = open_container(file)
        yield container, {kind: choose(container, kind, counts) for kind in sorted(kinds)}
    finally:
        container.close()


@dataclass(frozen=True)
class _Outlet:
    """An open stream and the sink that its frames go to."""

    stream: MediaStream
    sink: StreamSink[Any]

    @property
    def done(self) -> bool:
        """Whether nothing more is to be learned of the stream."""
        return bool(self.sink.refusal) or (self.sink.full and self.sink.has_more)

    def decode(self, packet: Packet | None) -> None:
        """Decode one packet, or, for None, what the decoder still holds back."""
        if self.sink.full or self.sink.refusal:
            self.sink.has_more |= packet is not None and self.sink.needs(self._time_of(packet))
            return
        context = self.stream.codec_context
        if packet is not None and self.sink.KIND == "video":
            context.skip_frame = "DEFAULT" if self.sink.needs(self._time_of(packet)) else "NONREF"
        try:
            for frame in context.decode(packet):
                self.sink.num_decoded += 1
                self.sink.take(frame, self.stream)
        except EOFError:
            return
        except MemoryError:
            self.sink.refusal = f"the {self.sink.KIND} stream needs more memory than decoding may use"
        except DECODING_ERRORS as error:
            self.sink.packets_corrupt += 1
            self.sink.error = self.sink.error or explain(error)

    def _time_of(self, packet: Packet) -> float | None:
        """Presentation time on the clip's clock."""
        stamp_s = None if packet.pts is None else packet.pts * self.sink.time_base_s
        return self.sink.clock.peek(self.sink.KIND, stamp_s)


def _connect(
    container: InputContainer,
    choices: dict[Kind, Choice],
    clock: Clock,
    sinks: Sequence[StreamSink[Any]],
) -> dict[int, _Outlet]:
    """Give each sink the chosen stream of its kind, and discard all others."""
    outlets: dict[int, _Outlet] = {}
    for sink in sinks:
        stream, sink.said = choices[sink.KIND].stream, choices[sink.KIND].said
        if stream is None:
            continue
        sink.open(stream, clock)
        if isinstance(stream, VideoStream) and stream.codec_context is not None:
            sink.refusal = _too_large(stream.width, stream.height)
        if stream.codec_context is not None and not sink.refusal:
            stream.codec_context.thread_count = 1
            stream.codec_context.options = dict(LIMITS)
            outlets[stream.index] = _Outlet(stream, sink)
    for unread in container.streams:
        if unread.index not in outlets:
            unread.discard = Discard.all
    return outlets


def _pump(container: InputContainer, outlets: dict[int, _Outlet]) -> None:
    """Demux until the file ends, breaks off, or nobody wants more."""
    if not outlets:
        return
    packets = container.demux([outlet.stream for outlet in outlets.values()])
    while not all(outlet.done for outlet in outlets.values()):
        try:
            packet = next(packets, None)
        except DECODING_ERRORS as error:
            for outlet in outlets.values():
                outlet.sink.error = outlet.sink.error or explain(error)
            return
        if packet is None:
            return
        if packet.size:
            outlets[packet.stream_index].decode(packet)


def _start_of(stream: MediaStream | None) -> float | None:
    if stream is None or stream.start_time is None or stream.time_base is None:
        return None
    return float(stream.start_time * stream.time_base)


def _too_large(width: int, height: int) -> str:
    if width * height <= MAX_PIXELS:
        return ""
    return f"a picture of {width} x {height} pixels is larger than the {MAX_PIXELS:,} pixels that are decoded"
