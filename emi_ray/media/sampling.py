"""Choose the frames of a stream to keep, by their timestamps alone."""

import math
from collections.abc import Iterable
from typing import Generic

from emi_ray.media.frame_times import Frame, FrameTimes, Timed

TOLERANCE_S = 1e-3
"""A frame may be this much before its grid point, because many containers round timestamps to milliseconds."""


class FrameSampler(Generic[Frame]):
    """Keeps the first frame at or after each point k / ``rate_hz`` of a grid that starts at the clip's time zero.

    If no frame arrives between a grid point and the next one, none is kept for it: a frame is never kept twice. The
    times of frames with missing or wrong timestamps are repaired, see :class:`FrameTimes`. If the first frame is
    before time zero, all timestamps are shifted so that it is at zero.

    Args:
        rate_hz: grid points per second.
        max_frames: number of frames after which the sampler is ``full``.
        fallback_step_s: assumed time between frames without valid timestamps.

    Attributes:
        last_s: time in seconds of the latest frame until the sampler is full, kept or not.
        num_kept: number of frames that were kept.
        left_out: whether a frame was not kept only because the sampler was full.
    """

    def __init__(self, rate_hz: float, max_frames: int, fallback_step_s: float) -> None:
        self._rate_hz = rate_hz
        self._max_frames = max_frames
        self._times: FrameTimes[Frame] = FrameTimes(fallback_step_s)
        self._next_point = 0
        self.last_s = 0.0
        self.num_kept = 0
        self.left_out = False

    @property
    def full(self) -> bool:
        return self.num_kept >= self._max_frames

    @property
    def first_s(self) -> float:
        """Time in seconds of the first frame."""
        return self._times.first_s or 0.0

    @property
    def num_repaired(self) -> int:
        """Number of frames whose timestamp was missing or wrong."""
        return self._times.num_repaired

    def is_due(self, timestamp_s: float | None) -> bool:
        """Return False only if the next frame, with this timestamp, would certainly not be kept."""
        times = self._times
        # After a repair the times of frames depend on those before, so a packet's timestamp no longer tells them.
        if timestamp_s is None or times.first_s is None or times.holds_frames or times.num_repaired:
            return True
        time_s = times.shifted(timestamp_s)
        # A frame that is not later than the previous one would be repaired.
        return time_s <= times.last_s or self._reaches_next_point(time_s)

    def push(self, frame: Frame, timestamp_s: float | None) -> list[Timed[Frame]]:
        """Process the next frame in presentation order.

        Args:
            timestamp_s: seconds since the clip's time zero.

        Returns:
            Those frames that are kept, of all whose times are settled now: usually that of this frame. Frames after
            a jump of the timestamps are held back until it is known whether the jump is right.
        """
        return self._keep(self._times.push(frame, timestamp_s))

    def finish(self) -> list[Timed[Frame]]:
        """Return the frames that were held back at the end of the stream, and are kept."""
        return self._keep(self._times.finish())

    def _keep(self, frames: Iterable[Timed[Frame]]) -> list[Timed[Frame]]:
        return [timed for timed in frames if self._takes(timed.time_s)]

    def _takes(self, time_s: float) -> bool:
        """Return whether the next frame, at this time, is kept."""
        if not self.full:
            self.last_s = time_s
        if not self._reaches_next_point(time_s):
            return False
        if self.full:
            self.left_out = True
            return False
        # Grid points that passed without a frame are skipped, so a late frame is not kept for several of them.
        self._next_point = math.floor((time_s + TOLERANCE_S) * self._rate_hz) + 1
        self.num_kept += 1
        return True

    def _reaches_next_point(self, time_s: float) -> bool:
        return time_s + TOLERANCE_S >= self._next_point / self._rate_hz
