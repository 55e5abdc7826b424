"""Deinterlace frames: keep the lines of one field and interpolate the others.

An interlaced frame contains two moments, the first in every other line, the second in the lines between, so moving
objects have combed edges. FFmpeg's ``estdif`` keeps the lines of one moment and interpolates the others along
edges. It needs a single frame only, and therefore also works for sampled frames, whose neighbours are not decoded.
"""

from fractions import Fraction

from av.filter import Graph
from av.video.frame import VideoFrame

_LINES_NEEDED = 8


class Deinterlacer:
    """Converts interlaced frames to progressive ones, and returns all other frames unchanged."""

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
            # The filter returns a frame only when it gets the next one, so each frame is pushed twice.
            found = [self._push(self._graph, frame), self._push(self._graph, frame)]
        finally:
            frame.pts, frame.time_base = kept
        return found[-1] or frame

    def _push(self, graph: Graph, frame: VideoFrame) -> VideoFrame | None:
        # The filter needs increasing timestamps, and each frame is pushed twice; the caller restores the real ones.
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
    """Return whether the stream marks this frame as interlaced."""
    return frame.interlaced_frame and frame.height >= _LINES_NEEDED


def _build(frame: VideoFrame) -> Graph:
    graph = Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 25)
    )
    graph.link_nodes(source, graph.add("estdif", "mode=frame:deint=all"), graph.add("buffersink")).configure()
    return graph
