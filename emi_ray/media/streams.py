"""Read a media file in one pass: demux packets once, and pass decoded frames to the sinks."""

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

MediaKind = Literal["video", "audio"]

TRUNCATED_SHARE = 0.9
"""A stream counts as truncated if less than this share of its declared duration can be decoded."""
TS_DISCONT = cast(int, Flags.ts_discont.value)
DECODING_ERRORS = (FFmpegError, OSError, ValueError, ArithmeticError, MemoryError, cv2.error)
"""Exceptions of decoders, numpy and OpenCV that damaged streams cause."""

AnyFrame = TypeVar("AnyFrame", VideoFrame, AudioFrame)


class StreamSink(ABC, Generic[AnyFrame]):
    """Receives the frames of one stream.

    After :func:`read_streams`:

    Attributes:
        found: whether the file has a stream of this kind.
        codec: name of its codec; None if there is no decoder for it.
        said: description of the choice among several streams.
        num_decoded: number of frames from the decoder.
        packets_corrupt: number of packets that the decoder refused.
        error: the first error of the decoder.
        has_more: whether the stream goes on after the sink was full.
        refusal: reason why nothing of the stream may be used; "" if there is none.
    """

    KIND: MediaKind

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
        """Prepare for a stream; called once, before the first frame.

        Do not keep the stream longer than its container.
        """
        self.found = True
        self.clock = clock
        self.codec = stream.codec_context.name if stream.codec_context is not None else None
        self.time_base_s = float(stream.time_base or 0)
        self.declared_s = (stream.duration or 0) * self.time_base_s

    @property
    @abstractmethod
    def full(self) -> bool:
        """True if no further frame is wanted."""

    @property
    @abstractmethod
    def covered_s(self) -> float:
        """Seconds from the start of the first to the end of the last decoded frame."""

    @abstractmethod
    def take(self, frame: AnyFrame, stream: Any) -> None:
        """Process the next decoded frame of ``stream``, in presentation order."""

    def end(self) -> None:
        """Process what was held back; called once, after the last frame of the stream."""
        return

    def needs(self, time_s: float | None) -> bool:
        """Return False if the next frame, at this time, would certainly not be used."""
        return True

    @property
    def truncated(self) -> bool:
        """Whether the decoded part of the stream ends well before the declared end."""
        return (
            bool(self.num_decoded)
            and not self.full
            and self.covered_s < TRUNCATED_SHARE * self.declared_s - 0.5
        )


@dataclass(frozen=True)
class FileNotes:
    """Facts about a whole file.

    Attributes:
        declared_s: declared duration in seconds; 0 if unknown.
        num_jumps: number of restarts of the timestamps.
    """

    declared_s: float
    num_jumps: int


def read_streams(
    file: BinaryIO, sinks: Sequence[StreamSink[Any]], serving: Collection[MediaKind]
) -> FileNotes:
    """Decode for each sink the stream of its kind that a player would choose, in one pass; discard the others.

    Frames that neither a sink nor another frame needs are not decoded, which saves 14–41 % of the work for H.264.
    Packets that cannot be decoded are counted and skipped; a file that breaks off is used up to there. Decoders use
    one thread, because many clips are decoded at once, and because the result of a damaged stream is then equal on
    every machine.

    Args:
        serving: the kinds of streams that the clip uses from this file, now or in another call. Time zero is
            the start of the earliest of these streams, so that it does not depend on what is decoded now.

    Raises:
        UnreadableError: FFmpeg cannot read the file, or it is not self-contained.
    """
    with _opened(file, serving) as (container, choices):
        starts = [_start_of(choice.stream) for choice in choices.values()]
        clock = Clock(starts, jumps=bool(container.format.flags & TS_DISCONT))
        outlets = _connect(container, choices, clock, sinks)
        _pump(container, outlets)
        for outlet in outlets.values():
            outlet.decode(None)
            outlet.end()
        return FileNotes((container.duration or 0) / 1e6, clock.num_jumps)


@contextmanager
def _opened(
    file: BinaryIO, kinds: Collection[MediaKind]
) -> Iterator[tuple[InputContainer, dict[MediaKind, Choice]]]:
    """Open the file and choose a stream of each kind.

    If the header does not suffice for that, the file is opened twice.
    """
    counts: dict[int, int] = {}
    container = open_container(file)
    try:
        if needs_counting(container, kinds):
            # A container in which packets were counted cannot be read again, so the file is opened anew.
            counts = count_packets(container)
            container.close()
            file.seek(0)
            container = open_container(file)
        yield container, {kind: choose(container, kind, counts) for kind in sorted(kinds)}
    finally:
        container.close()


@dataclass(frozen=True)
class _Outlet:
    """An open stream and the sink that receives its frames."""

    stream: MediaStream
    sink: StreamSink[Any]

    @property
    def done(self) -> bool:
        """Whether the rest of the stream is irrelevant."""
        return bool(self.sink.refusal) or (self.sink.full and self.sink.has_more)

    def decode(self, packet: Packet | None) -> None:
        """Decode one packet; None decodes the frames that are left in the decoder."""
        if self.sink.full or self.sink.refusal:
            # Packets after the end are not decoded; their times alone tell whether frames were left out.
            self.sink.has_more |= packet is not None and self.sink.needs(self._time_of(packet))
            return
        context = self.stream.codec_context
        if packet is not None and self.sink.KIND == "video":
            # Frames that no other frame refers to can be skipped without damage to later ones.
            context.skip_frame = "DEFAULT" if self.sink.needs(self._time_of(packet)) else "NONREF"
        with self._noting_errors():
            for frame in context.decode(packet):
                self.sink.num_decoded += 1
                self.sink.take(frame, self.stream)

    def end(self) -> None:
        """Tell the sink that the stream has ended."""
        if not self.sink.refusal:
            with self._noting_errors():
                self.sink.end()

    @contextmanager
    def _noting_errors(self) -> Iterator[None]:
        """Record errors of the decoder and of the sink instead of raising them."""
        try:
            yield
        except EOFError:
            return
        # Retrying with further packets would need the same memory again, so the stream is given up.
        except MemoryError:
            self.sink.refusal = f"the {self.sink.KIND} stream needs more memory than decoding may use"
        except DECODING_ERRORS as error:
            self.sink.packets_corrupt += 1
            self.sink.error = self.sink.error or explain(error)

    def _time_of(self, packet: Packet) -> float | None:
        """Return the presentation time on the clip's time axis."""
        stamp_s = None if packet.pts is None else packet.pts * self.sink.time_base_s
        return self.sink.clock.peek(self.sink.KIND, stamp_s)


def _connect(
    container: InputContainer,
    choices: dict[MediaKind, Choice],
    clock: Clock,
    sinks: Sequence[StreamSink[Any]],
) -> dict[int, _Outlet]:
    """Connect each sink to the chosen stream of its kind, and discard all other streams."""
    outlets: dict[int, _Outlet] = {}
    for sink in sinks:
        stream, sink.said = choices[sink.KIND].stream, choices[sink.KIND].said
        if stream is None:
            continue
        sink.open(stream, clock)
        if isinstance(stream, VideoStream) and stream.codec_context is not None:
            sink.refusal = _too_large(stream.width, stream.height)
        if stream.codec_context is not None and not sink.refusal:
            # These options must be set before the first packet is decoded, because FFmpeg opens the decoder then.
            stream.codec_context.thread_count = 1
            stream.codec_context.options = dict(LIMITS)
            outlets[stream.index] = _Outlet(stream, sink)
    for unread in container.streams:
        if unread.index not in outlets:
            # The demuxer then drops the packets of these streams itself.
            unread.discard = Discard.all
    return outlets


def _pump(container: InputContainer, outlets: dict[int, _Outlet]) -> None:
    """Demux until the file ends or breaks off, or all sinks are done."""
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
        # PyAV ends the stream with an empty packet for flushing; the decoders are flushed by the caller.
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
