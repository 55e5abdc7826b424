"""Choose the frames of a stream to keep, by their timestamps alone."""

import math

TOLERANCE_S = 1e-3
"""A frame may be this much before its grid point, because many containers round timestamps to milliseconds."""


class FrameSampler:
    """Keeps the first frame at or after each point k / ``rate_hz`` of a grid that starts at the clip's time zero.

    If no frame arrives between a grid point and the next one, none is kept for it: a frame is never kept twice. A
    timestamp that is missing, or not later than the previous one, is replaced by the previous one plus
    ``fallback_step_s``, so that time always increases. If the first frame is before time zero, all timestamps are
    shifted so that it is at zero.

    Args:
        rate_hz: grid points per second.
        max_frames: number of frames after which the sampler is ``full``.
        fallback_step_s: assumed time between frames without valid timestamps.
    """

    def __init__(self, rate_hz: float, max_frames: int, fallback_step_s: float) -> None:
        self._rate_hz = rate_hz
        self._max_frames = max_frames
        self._step_s = fallback_step_s
        self._shift_s: float | None = None
        self._last_s = 0.0
        self.first_s = 0.0
        self._next_point = 0
        self.num_kept = 0
        self.num_repaired = 0

    @property
    def full(self) -> bool:
        return self.num_kept >= self._max_frames

    @property
    def last_s(self) -> float:
        """Time in seconds of the latest frame, kept or not."""
        return self._last_s

    def is_due(self, timestamp_s: float | None) -> bool:
        """Return False only if the next frame, with this timestamp, would certainly not be kept."""
        # After a repair the times of frames depend on those before, so a packet's timestamp no longer tells them.
        if timestamp_s is None or self._shift_s is None or self.num_repaired:
            return True
        return self._reaches_next_point(timestamp_s + self._shift_s)

    def place(self, timestamp_s: float | None) -> float | None:
        """Process the next frame in presentation order.

        Args:
            timestamp_s: seconds since the clip's time zero.

        Returns:
            The time of the frame in seconds since time zero if it is kept, else None.
        """
        self._last_s = self._time_of(timestamp_s)
        if self.full or not self._reaches_next_point(self._last_s):
            return None
        # Grid points that passed without a frame are skipped, so a late frame is not kept for several of them.
        self._next_point = math.floor((self._last_s + TOLERANCE_S) * self._rate_hz) + 1
        self.num_kept += 1
        return self._last_s

    def _time_of(self, timestamp_s: float | None) -> float:
        if self._shift_s is None:
            self._shift_s = max(0.0, -(timestamp_s or 0.0))
            self.first_s = max(0.0, timestamp_s or 0.0)
            return self.first_s
        time_s = None if timestamp_s is None else timestamp_s + self._shift_s
        if time_s is None or time_s <= self._last_s:
            self.num_repaired += 1
            return self._last_s + self._step_s
        return time_s

    def _reaches_next_point(self, time_s: float) -> bool:
        return time_s + TOLERANCE_S >= self._next_point / self._rate_hz
