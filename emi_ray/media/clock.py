"""One clock for the streams of a file."""

from collections import defaultdict
from collections.abc import Iterable

JUMP_S = 10.0
"""In formats that may start their timestamps anew (MPEG-TS, Ogg, ...) a later jump than this is no pause but a new
start; as FFmpeg's own ``dts_delta_threshold``."""


class Clock:
    """Timestamps of a file → seconds since the earliest of its chosen streams began.

    Args:
        starts_s: when each chosen stream begins, None where the file does not say. If none does, the first
            timestamp that comes is time zero.
        jumps: whether the format's timestamps may start anew.

    Attributes:
        num_jumps: new starts that were passed over.
    """

    def __init__(self, starts_s: Iterable[float | None], jumps: bool) -> None:
        self._origin_s = min((start for start in starts_s if start is not None), default=None)
        self._jumps = jumps
        self._skipped_s: dict[str, float] = defaultdict(float)
        self._last_s: dict[str, float] = {}
        self.num_jumps = 0

    def peek(self, kind: str, timestamp_s: float | None) -> float | None:
        """Seconds since time zero, of a packet that is not decoded yet."""
        if timestamp_s is None or self._origin_s is None:
            return None
        return timestamp_s - self._origin_s - self._skipped_s[kind]

    def read(self, kind: str, timestamp_s: float | None) -> float | None:
        """Seconds since time zero, of the next decoded frame of the stream of a kind; None if nobody knows."""
        if timestamp_s is None:
            return None
        if self._origin_s is None:
            self._origin_s = timestamp_s
        time_s = timestamp_s - self._origin_s - self._skipped_s[kind]
        last_s = self._last_s.get(kind, time_s)
        if self._jumps and time_s - last_s > JUMP_S:
            self._skipped_s[kind] += time_s - last_s
            self.num_jumps += 1
            time_s = last_s
        self._last_s[kind] = time_s
        return time_s
