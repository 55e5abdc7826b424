"""Give the frames of a stream times that do not decrease, by those timestamps that fit together."""

from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

Frame = TypeVar("Frame")

LOOKAHEAD = 8
"""Number of following frames that a jump is compared with. At most so many frames, and the first, are held back."""
MIN_CONFIRMING = 3
"""Number of following frames with a later timestamp that a jump needs at least."""
JUMP_S = 1.0
"""Frames that follow within this time are not a jump; timestamps that go back further than this have restarted."""
EQUAL_S = 1e-6
"""Timestamps that differ by less are equal except for rounding."""
MAX_JUMP_AT_END_S = 10.0
"""At the end of a stream a jump up to this length needs no confirmation, since it may be the last picture of a slide
show. A longer one is more likely a wrong timestamp."""


@dataclass(frozen=True)
class Timed(Generic[Frame]):
    """A frame and its time in seconds since the clip's time zero."""

    frame: Frame
    time_s: float


class FrameTimes(Generic[Frame]):
    """Turns the timestamps of successive frames into times.

    A timestamp is used if it is later than the previous time. A jump forward by more than ``JUMP_S`` and more than
    twice the previous interval counts only if at least ``MIN_CONFIRMING`` of the next ``LOOKAHEAD`` frames are later
    still, and none of them returns to the time before it. Frames are held back until that is known. At the end of
    the stream a jump by up to ``MAX_JUMP_AT_END_S`` that no frame contradicts counts as well, and so do one that is
    followed by an interval of at least half its length, and the timestamp of the first frame.

    Frames with other timestamps are repaired. They follow the previous frame in steps of ``step_s``, or in shorter
    ones if the next frame after a wrong jump is earlier than that. Frames that are only a little earlier than the
    latest time, as after a wrong jump of less than ``JUMP_S``, get the latest time until they are later again. If
    timestamps that advance stay further behind for ``LOOKAHEAD`` frames, they have restarted, and are joined to the
    previous ones.

    Args:
        step_s: assumed time between frames without valid timestamps.

    Attributes:
        first_s: time of the first frame; None before it is settled.
        last_s: time of the latest settled frame.
        num_repaired: number of frames whose timestamp was missing or wrong.
    """

    def __init__(self, step_s: float) -> None:
        self._step_s = step_s
        self._held: deque[tuple[Frame, float | None]] = deque()
        self._shift_s = 0.0
        self._interval_s = 0.0
        self._before_valid_s = 0.0
        self._previous_stamp_s: float | None = None
        self._num_restarted = 0
        self._num_waiting = 0
        self._is_looping = False
        self.first_s: float | None = None
        self.last_s = 0.0
        self.num_repaired = 0

    @property
    def holds_frames(self) -> bool:
        """Whether a jump is not decided yet."""
        return bool(self._held)

    def shifted(self, timestamp_s: float) -> float:
        """Return the time of a frame with this timestamp, if it is valid."""
        return timestamp_s + self._shift_s

    def push(self, frame: Frame, timestamp_s: float | None) -> list[Timed[Frame]]:
        """Add the next frame in presentation order, and return the frames whose times are settled.

        Args:
            timestamp_s: seconds since the clip's time zero; None if unknown.
        """
        self._held.append((frame, timestamp_s))
        return self._settle(at_end=False)

    def finish(self) -> list[Timed[Frame]]:
        """Return the frames that are left."""
        return self._settle(at_end=True)

    def _settle(self, at_end: bool) -> list[Timed[Frame]]:
        settled: list[Timed[Frame]] = []
        while self._held and (at_end or not self._must_wait()):
            num_wrong = self._num_wrong()
            settled += self._repair_run(num_wrong) if num_wrong else [self._settle_one(at_end)]
        return settled

    def _must_wait(self) -> bool:
        return self._is_jump(self._stamp(0)) and len(self._held) <= LOOKAHEAD

    def _stamp(self, index: int) -> float | None:
        """Return the time that the timestamp of a held frame means; None if it is missing."""
        timestamp_s = self._held[index][1]
        return None if timestamp_s is None else self.shifted(timestamp_s)

    def _is_jump(self, stamp_s: float | None) -> bool:
        # In a slide show the usual interval is long. A wrong jump by two intervals is over with the next frame.
        return stamp_s is not None and stamp_s - self.last_s > max(JUMP_S, 2 * self._interval_s)

    def _later_stamps(self) -> list[tuple[int, float]]:
        """Return index and time of the held frames after the first that have a timestamp."""
        stamps = ((index, self._stamp(index)) for index in range(1, len(self._held)))
        return [(index, stamp_s) for index, stamp_s in stamps if stamp_s is not None]

    def _num_wrong(self) -> int:
        """Return the number of held frames before the one that returns from a jump; 0 if none returns."""
        jump_s = self._stamp(0)
        if jump_s is None or not self._is_jump(jump_s):
            return 0
        # Even the second frame may be before time zero, but not far.
        from_s = -JUMP_S if self.first_s is None else self.last_s
        returning = [(stamp_s, index) for index, stamp_s in self._later_stamps() if from_s < stamp_s < jump_s]
        # Of several frames that return, the earliest is right: the others may be wrong timestamps themselves.
        return min(returning)[1] if returning else 0

    def _repair_run(self, num_frames: int) -> list[Timed[Frame]]:
        """Give even times to held frames with wrong timestamps, before the next one."""
        next_s = self._stamp(num_frames)
        assert next_s is not None
        step_s = self._step_s
        if self.first_s is None:
            self._start(next_s - num_frames * step_s)
            start_s = self.last_s - step_s
        else:
            start_s = self.last_s
            step_s = min(step_s, (next_s - start_s) / (num_frames + 1))
        frames = [self._held.popleft()[0] for _ in range(num_frames)]
        self.num_repaired += num_frames
        self.last_s = start_s + num_frames * step_s
        return [Timed(frame, start_s + (index + 1) * step_s) for index, frame in enumerate(frames)]

    def _settle_one(self, at_end: bool) -> Timed[Frame]:
        """Settle the first held frame, with which no later one conflicts."""
        stamp_s = self._stamp(0)
        if self.first_s is None:
            self._start(stamp_s or 0.0)
        elif stamp_s is None or stamp_s <= self.last_s:
            self._repair(stamp_s)
        elif self._is_jump(stamp_s) and not self._is_confirmed(stamp_s, at_end):
            self._repair(None)
        else:
            self._interval_s = stamp_s - self.last_s
            self._before_valid_s, self.last_s = self.last_s, stamp_s
            self._num_restarted = self._num_waiting = 0
        if stamp_s is not None:
            self._previous_stamp_s = self._stamp(0)
        return Timed(self._held.popleft()[0], self.last_s)

    def _start(self, time_s: float) -> None:
        """Settle the time of the first frame. If it is before time zero, all timestamps are shifted."""
        self._shift_s = max(0.0, -time_s)
        self.first_s = self.last_s = self._before_valid_s = max(0.0, time_s)

    def _is_confirmed(self, jump_s: float, at_end: bool) -> bool:
        length_s = jump_s - self.last_s
        if at_end and length_s <= MAX_JUMP_AT_END_S:
            return True
        later = [stamp_s for _, stamp_s in self._later_stamps() if stamp_s > jump_s]
        # The last pictures of a slide show follow each other at similar intervals.
        is_slide = at_end and bool(later) and later[0] - jump_s > length_s / 2
        return is_slide or len(later) >= MIN_CONFIRMING

    def _repair(self, stamp_s: float | None) -> None:
        """Settle the time of a frame whose timestamp is missing, or not later than the previous time."""
        self.num_repaired += 1
        before_s = self._previous_stamp_s
        # Timestamps that will soon be later than the latest time get that time. Steps would keep them behind it.
        if stamp_s is not None and not self._is_looping and self._catches_up(stamp_s, before_s):
            self._num_waiting += 1
            return
        # If they go back once more while they are behind, they are those of short loops, of which each is joined.
        self._is_looping |= self._num_waiting >= LOOKAHEAD
        self.last_s += self._step_s
        if stamp_s is not None and self._is_looping:
            self._join(stamp_s)
            return
        advances = stamp_s is not None and before_s is not None and stamp_s > before_s
        self._num_restarted = self._num_restarted + 1 if advances else 0
        if stamp_s is not None and self._num_restarted == LOOKAHEAD:
            # The timestamps have restarted for good, as in concatenated files.
            self._join(stamp_s)

    def _join(self, stamp_s: float) -> None:
        """Shift all following timestamps, so that this one means the latest time."""
        self._shift_s += self.last_s - stamp_s
        self._before_valid_s = self.last_s
        self._num_restarted = self._num_waiting = 0

    def _catches_up(self, stamp_s: float, before_s: float | None) -> bool:
        """Return whether the latest time is only a little ahead of a timestamp, so that later ones will exceed it.

        Args:
            before_s: the previous timestamp.
        """
        if before_s is not None and abs(stamp_s - before_s) < EQUAL_S:
            return False
        # If the latest valid timestamp was a little too late, this one is later than the valid one before that.
        if stamp_s > self._before_valid_s:
            return True
        return before_s is not None and stamp_s > before_s and stamp_s > self.last_s - JUMP_S
