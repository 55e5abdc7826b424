"""Which frames of a stream are kept, told by their timestamps alone."""

import math

TOLERANCE_S = 1e-3
"""A frame this much before its grid point still counts: many containers round timestamps to milliseconds."""


class FrameSampler:
    """Keeps the first frame at or after each point k / ``rate_hz`` of a grid that starts at the clip's time zero.

    A grid point that no frame reaches before the next point keeps none: a frame is never kept twice. A
    timestamp that is missing, or not later than the one before it, is replaced by the one before plus
    ``fallback_step_s``; thus time never goes backwards. Where the first frame is before time zero all are moved
    so that it is at zero.

    Args:
        rate_hz: grid points a second.
        max_frames: when as many were kept, the sampler is ``full``.
        fallback_step_s: assumed time between frames where timestamps do not tell.
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
        """Time of the latest frame, kept or not, in seconds since time zero."""
        return self._last_s

    def is_due(self, timestamp_s: float | None) -> bool:
        """False only where a frame of this timestamp, coming next, would surely not be kept."""
        if timestamp_s is None or self._shift_s is None or self.num_repaired:
            return True
        return self._reaches_next_point(timestamp_s + self._shift_s)

    def place(self, timestamp_s: float | None) -> float | None:
        """Take the next frame in presentation order.

        Args:
            timestamp_s: seconds since the clip's time zero.

        Returns:
            Its time in seconds since time zero if it is to be kept, else None.
        """
        self._last_s = self._time_of(timestamp_s)
        if self.full or not self._reaches_next_point(self._last_s):
            return None
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
