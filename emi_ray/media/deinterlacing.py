"""Interlaced frames: the lines of one moment alone.

An interlaced frame holds two moments, the first in every other line, the second in the lines between. What moves has
combed edges. FFmpeg's ``estdif`` keeps the lines of one moment and interpolates those between along edges. It looks
at one frame only, so that it also serves sampled frames, whose neighbours are not decoded.
"""

from fractions import Fraction

from av.filter import Graph
from av.video.frame import VideoFrame

_LINES_NEEDED = 8


class Deinterlacer:
    """Makes interlaced frames progressive, and returns all others as they are."""

    def __init__(self) -> None:
        self._graph: Graph | None = None
        self._shape: tuple[int, int, str] | None = None
        self._pushed = 0

    def __call__(self, frame: VideoFrame) -> VideoFrame:
        if not is_interlaced(frame):
            return frame
        shape = (frame.width, frame.height, frame.format.name)
        if self._graph is None or shape != self._shape:
            self._graph, self._shape, self._pushed = _build(frame), shape, 0
        kept = frame.pts, frame.time_base
        try:
            # The filter gives a frame when the next one comes, so each is pushed twice.
            found = [self._push(self._graph, frame), self._push(self._graph, frame)]
        finally:
            frame.pts, frame.time_base = kept
        return found[-1] or frame

    def _push(self, graph: Graph, frame: VideoFrame) -> VideoFrame | None:
        frame.pts, frame.time_base = self._pushed, Fraction(1, 25)
        self._pushed += 1
        graph.push(frame)
        try:
            found = graph.pull()
        except BlockingIOError:
            return None
        assert isinstance(found, VideoFrame)
        return found


def is_interlaced(frame: VideoFrame) -> bool:
    """Whether the stream says so of this frame."""
    return frame.interlaced_frame and frame.height >= _LINES_NEEDED


def _build(frame: VideoFrame) -> Graph:
    graph = Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 25)
    )
    graph.link_nodes(source, graph.add("estdif", "mode=frame:deint=all"), graph.add("buffersink")).configure()
    return graph
