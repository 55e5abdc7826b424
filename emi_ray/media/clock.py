"""A common time axis for the streams of a file."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

JUMP_S = 10.0
"""In formats whose timestamps may restart (MPEG-TS, Ogg, ...), a jump forward by more than this is a restart and not
a pause, like with FFmpeg's ``dts_delta_threshold``."""
MAX_LEFT = 4
"""Number of latest jumps of a stream that can be undone."""


@dataclass(frozen=True)
class _Axis:
    """How the timestamps of a stream are converted.

    Attributes:
        skipped_s: sum of the jumps that were removed.
        last_s: latest time on the clip's time axis; None before the first.
        num_jumps: number of jumps that were removed.
    """

    skipped_s: float = 0.0
    last_s: float | None = None
    num_jumps: int = 0

    def continued_by(self, time_s: float) -> bool:
        """Return whether a time, from which no jumps were removed, follows the latest time without a jump."""
        return self.last_s is not None and 0 < time_s - self.skipped_s - self.last_s <= JUMP_S


@dataclass
class _Conversion:
    """The present axis of a stream, and those that jumps have left."""

    axis: _Axis = field(default_factory=_Axis)
    left: deque[_Axis] = field(default_factory=lambda: deque(maxlen=MAX_LEFT))

    def jump(self, time_s: float) -> None:
        """Adapt the axis to a time, from which no jumps were removed, if it does not continue the latest one."""
        before = self.axis
        if before.last_s is None or before.continued_by(time_s):
            return
        step_s = time_s - before.skipped_s - before.last_s
        if abs(step_s) <= JUMP_S:
            return
        # Timestamps that continue those before a jump show that the ones in between were wrong.
        resumed = next((axis for axis in reversed(self.left) if axis.continued_by(time_s)), None)
        self.left.append(before)
        if resumed is not None:
            self.axis = resumed
        elif step_s > JUMP_S:
            self.axis = _Axis(before.skipped_s + step_s, before.last_s, before.num_jumps + 1)


class Clock:
    """Convert timestamps of a file to seconds since the beginning of the earliest chosen stream.

    In formats whose timestamps may restart, jumps forward are removed. A jump is undone if a later timestamp
    continues those before it.

    Args:
        starts_s: start of each chosen stream, None if unknown. If all are unknown, the first timestamp is time
            zero.
        jumps: whether the format's timestamps may restart.
    """

    def __init__(self, starts_s: Iterable[float | None], jumps: bool) -> None:
        self._origin_s = min((start for start in starts_s if start is not None), default=None)
        self._jumps = jumps
        # The streams of a file restart separately, so each kind has its own correction.
        self._conversions: dict[str, _Conversion] = {}

    @property
    def num_jumps(self) -> int:
        """Number of restarts that were corrected."""
        return sum(conversion.axis.num_jumps for conversion in self._conversions.values())

    def peek(self, kind: str, timestamp_s: float | None) -> float | None:
        """Return the time in seconds of a packet that is not decoded yet; None if unknown."""
        if timestamp_s is None or self._origin_s is None:
            return None
        return timestamp_s - self._origin_s - self._conversion(kind).axis.skipped_s

    def read(self, kind: str, timestamp_s: float | None) -> float | None:
        """Return the time in seconds of the next decoded frame of the stream of a kind; None if unknown."""
        if timestamp_s is None:
            return None
        if self._origin_s is None:
            self._origin_s = timestamp_s
        conversion = self._conversion(kind)
        if self._jumps:
            conversion.jump(timestamp_s - self._origin_s)
        time_s = timestamp_s - self._origin_s - conversion.axis.skipped_s
        conversion.axis = replace(conversion.axis, last_s=time_s)
        return time_s

    def _conversion(self, kind: str) -> _Conversion:
        return self._conversions.setdefault(kind, _Conversion())
