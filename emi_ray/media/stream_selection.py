"""Which stream of a file is read where it holds several of a kind: the one that a player would show."""

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
"""Streams that accompany a film or a song, as a cover does."""
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
"""Streams for some people or for some purpose; a player shows them on request."""
PEEK_PACKETS = 4000
"""Packets that are counted to tell streams apart where the file's header does not say how long each is."""
AS_LONG = 0.95
"""Sound tracks of at least this share of the longest one's packets or seconds count as equally long."""


@dataclass(frozen=True)
class Choice:
    """The stream to read, None where the file has none of the kind; ``said`` tells what else there was, or is ""."""

    stream: MediaStream | None
    said: str = ""


def candidates(container: InputContainer, kind: str) -> list[MediaStream]:
    """The streams of a kind, ``video`` or ``audio``."""
    return [s for s in container.streams if s.type == kind and isinstance(s, VideoStream | AudioStream)]


def needs_counting(container: InputContainer, kinds: Iterable[str]) -> bool:
    """Whether a choice has to be made that the file's header does not decide."""
    groups = [[s for s in candidates(container, kind) if not s.disposition & PICTURES] for kind in kinds]
    return any(len(group) > 1 and not all(stream.frames for stream in group) for group in groups)


def count_packets(container: InputContainer) -> dict[int, int]:
    """Packets of each stream among the first ``PEEK_PACKETS`` of sound and pictures. The container is used up."""
    streams = [*candidates(container, "video"), *candidates(container, "audio")]
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
        pass  # what was counted until here decides
    return dict(counts)


def choose(container: InputContainer, kind: str, counts: Mapping[int, int]) -> Choice:
    """The stream of a kind that a player would show.

    In this order: FFmpeg has a decoder for it; it is no single picture and not empty; it is part of the programme
    (no commentary and the like); the file marks it as default; it has most frames (sound: is about as long as the
    longest); it comes first. Covers are never chosen.

    Args:
        counts: packets by stream, where the header does not tell how many frames the streams have.
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
    """Seconds, or packets where the file does not say."""
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
