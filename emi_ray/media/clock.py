"""A common time axis for the streams of a file."""

from collections import defaultdict
from collections.abc import Iterable

JUMP_S = 10.0
"""In formats whose timestamps may restart (MPEG-TS, Ogg, ...), a jump forward by more than this is a restart and not
a pause, like with FFmpeg's ``dts_delta_threshold``."""


class Clock:
    """Convert timestamps of a file to seconds since the beginning of the earliest chosen stream.

    Args:
        starts_s: start of each chosen stream, None if unknown. If all are unknown, the first timestamp is time
            zero.
        jumps: whether the format's timestamps may restart.

    Attributes:
        num_jumps: number of restarts that were corrected.
    """

    def __init__(self, starts_s: Iterable[float | None], jumps: bool) -> None:
        self._origin_s = min((start for start in starts_s if start is not None), default=None)
        self._jumps = jumps
        self._skipped_s: dict[str, float] = defaultdict(float)
        self._last_s: dict[str, float] = {}
        self.num_jumps = 0

    def peek(self, kind: str, timestamp_s: float | None) -> float | None:
        """Return the time in seconds of a packet that is not decoded yet; None if unknown."""
        if timestamp_s is None or self._origin_s is None:
            return None
        return timestamp_s - self._origin_s - self._skipped_s[kind]

    def read(self, kind: str, timestamp_s: float | None) -> float | None:
        """Return the time in seconds of the next decoded frame of the stream of a kind; None if unknown."""
        if timestamp_s is None:
            return None
        if self._origin_s is None:
            self._origin_s = timestamp_s
        time_s = timestamp_s - self._origin_s - self._skipped_s[kind]
        last_s = self._last_s.get(kind, time_s)
        if self._jumps and time_s - last_s > JUMP_S:
            # The streams of a file restart separately, so each kind has its own correction.
            self._skipped_s[kind] += time_s - last_s
            self.num_jumps += 1
            time_s = last_s
        self._last_s[kind] = time_s
        return time_s
