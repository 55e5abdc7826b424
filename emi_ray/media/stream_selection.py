"""Choose the stream to read if a file has several of a kind: the one that a player would play."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Discard, Disposition
from av.video.stream import VideoStream

MediaStream = VideoStream | AudioStream

PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails
"""Still images that accompany a film or a song, such as a cover."""
BESIDE_THE_PROGRAMME = (
    Disposition.comment
    | Disposition.lyrics
    | Disposition.karaoke
    | Disposition.hearing_impaired
    | Disposition.visual_impaired
    | Disposition.clean_effects
    | Disposition.descriptions
    | Disposition.non_diegetic
    | Disposition.dependent
)
"""Streams for a special purpose, which a player plays only on request."""
PEEK_PACKETS = 4000
"""Number of packets that are counted to compare streams if the header does not give their lengths."""
AS_LONG = 0.95
"""Audio tracks with at least this share of the longest one's packets or seconds count as equally long."""


@dataclass(frozen=True)
class Choice:
    """The stream to read.

    Attributes:
        stream: None if the file has no stream of the kind.
        said: description of the choice if there were other streams, else "".
    """

    stream: MediaStream | None
    said: str = ""


def candidates(container: InputContainer, kind: str) -> list[MediaStream]:
    """Return the streams of a kind, ``video`` or ``audio``."""
    return [s for s in container.streams if s.type == kind and isinstance(s, VideoStream | AudioStream)]


def needs_counting(container: InputContainer, kinds: Iterable[str]) -> bool:
    """Return whether the file has several streams of a kind and the header does not give their lengths."""
    groups = [[s for s in candidates(container, kind) if not s.disposition & PICTURES] for kind in kinds]
    return any(len(group) > 1 and not all(stream.frames for stream in group) for group in groups)


def count_packets(container: InputContainer) -> dict[int, int]:
    """Count the packets of each stream among the first ``PEEK_PACKETS``.

    The container cannot be read again afterwards.
    """
    streams = [*candidates(container, "video"), *candidates(container, "audio")]
    # Packets of data and subtitle streams would use up the limited number of packets.
    for stream in container.streams:
        if stream not in streams:
            stream.discard = Discard.all
    counts: Counter[int] = Counter()
    try:
        for number, packet in enumerate(container.demux(streams)):
            if number == PEEK_PACKETS:
                break
            counts[packet.stream_index] += bool(packet.size)
    except (FFmpegError, OSError, ValueError):
        pass  # the choice uses what was counted so far
    return dict(counts)


def choose(container: InputContainer, kind: str, counts: Mapping[int, int]) -> Choice:
    """Choose the stream of a kind that a player would play.

    Criteria, the most important first: FFmpeg has a decoder for it; it is not a single image and not empty; it is
    part of the programme (not a commentary or the like); the file marks it as default; it has the most frames
    (audio: it is about as long as the longest); it comes first. Cover images are never chosen.

    Args:
        counts: packets by stream, if the header does not give the number of frames.
    """
    streams = candidates(container, kind)
    frames = {s.index: counts.get(s.index, 0) if counts else s.frames for s in streams}
    eligible = [s for s in streams if not s.disposition & PICTURES]
    if not eligible:
        return Choice(None)
    lengths = {s.index: _length(s, frames) for s in eligible}
    longest = max(lengths.values())

    def rank(stream: MediaStream) -> tuple[float, ...]:
        count = frames[stream.index]
        is_default = bool(stream.disposition & Disposition.default)
        return (
            stream.codec_context is not None,
            count != 1 and not stream.disposition & Disposition.still_image if kind == "video" else count > 0,
            not stream.disposition & BESIDE_THE_PROGRAMME,
            is_default,
            count if kind == "video" else lengths[stream.index] >= AS_LONG * longest,
            -stream.index,
        )

    best = max(eligible, key=rank)
    return Choice(best, _describe(best, streams, frames))


def _length(stream: MediaStream, frames: Mapping[int, int]) -> float:
    """Return the length in seconds; in packets if the file does not give it."""
    return (
        float(stream.duration * stream.time_base)
        if stream.duration and stream.time_base
        else frames[stream.index]
    )


def _describe(chosen: MediaStream, streams: Sequence[MediaStream], frames: Mapping[int, int]) -> str:
    others = [_name(s, frames[s.index]) for s in streams if s.index != chosen.index]
    return f"{_name(chosen, frames[chosen.index])}; not read: {', '.join(others)}" if others else ""


def _name(stream: MediaStream, num_frames: int) -> str:
    codec = stream.codec_context.name if stream.codec_context is not None else "no decoder"
    traits = [codec]
    if isinstance(stream, VideoStream):
        traits.append(f"{stream.width} x {stream.height}" if stream.codec_context is not None else "")
    if stream.disposition & PICTURES or (stream.type == "video" and num_frames == 1):
        traits.append("a single picture")
    traits += [
        str(flag.name) for flag in BESIDE_THE_PROGRAMME | Disposition.default if flag & stream.disposition
    ]
    return f"stream {stream.index} ({', '.join(trait for trait in traits if trait)})"
