"""Place pieces of audio on the time axis of their clip, by their timestamps."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Piece = TypeVar("Piece")

LOOKAHEAD = 8
"""Number of further pieces that must confirm a shift. Timestamps with mere jitter return within this number."""
GAP_S = 0.010
"""Shorter gaps are rounding errors. The shortest piece that a codec can lose is hardly shorter than this."""
OVERLAP_S = 0.050
"""Shorter overlaps are ignored, because cutting audio would do more harm than such a delay."""
MIN_AT_END = 4
"""At the end of the stream at least this many pieces must follow a gap of more than ``MAX_GAP_AT_END_S``."""
MAX_GAP_AT_END_S = 1.0
"""Shorter gaps before the last pieces are believed, because even a wrong one does little harm."""
RESTART_S = 1.0
"""Timestamps that jump back further than this have restarted, as in concatenated files."""


@dataclass(frozen=True)
class Placed(Generic[Piece]):
    """A piece of audio.

    Attributes:
        shift_s: seconds of silence to insert before it; if negative, seconds of audio to cut there.
    """

    piece: Piece
    shift_s: float


class SoundTimeline(Generic[Piece]):
    """Places pieces of audio by their timestamps: gaps become silence, overlaps are cut.

    Normally each piece starts where the previous one ends. If a piece and the ``LOOKAHEAD`` pieces after it all
    start later than that, a gap of the smallest of these differences is inserted; if all start earlier, the overlap
    is cut. If timestamps go back by more than ``RESTART_S``, they are ignored, and the audio continues without a
    gap.

    At the end of the stream fewer pieces follow. A gap of more than ``MAX_GAP_AT_END_S`` there needs ``MIN_AT_END``
    pieces after it, unless it is before the first piece of all.

    Attributes:
        num_restarts: number of times that timestamps restarted.
        num_ignored: number of pieces whose timestamp differs by more than ``RESTART_S`` from where they were placed.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[Piece, float]] = deque()
        self._next_s = 0.0
        self._offset_s = 0.0
        self._last_deviation_s = 0.0
        self._has_placed = False
        self.num_restarts = 0
        self.num_ignored = 0

    def push(self, piece: Piece, start_s: float | None, duration_s: float) -> list[Placed[Piece]]:
        """Add the next piece, and return the pieces whose position is settled.

        Args:
            start_s: start on the clip's time axis; None if unknown.
            duration_s: length in seconds.
        """
        deviation_s = self._last_deviation_s if start_s is None else start_s - self._next_s
        self._last_deviation_s = deviation_s
        self._next_s += duration_s
        self._waiting.append((piece, deviation_s))
        return [self._place()] if len(self._waiting) > LOOKAHEAD else []

    def finish(self) -> list[Placed[Piece]]:
        """Return the pieces that are left."""
        return [self._place() for _ in range(len(self._waiting))]

    def _place(self) -> Placed[Piece]:
        deviations = [deviation_s for _, deviation_s in self._waiting]
        piece, deviation_s = self._waiting.popleft()
        shift_s = self._shift(deviations)
        self._has_placed = True
        if abs(deviation_s - self._offset_s) > RESTART_S:
            self.num_ignored += 1
        return Placed(piece, shift_s)

    def _shift(self, deviations: Sequence[float]) -> float:
        """Return the shift before the first of the waiting pieces, and adapt the offset to it."""
        # A shift counts only if all waiting pieces confirm it, so jitter of single timestamps has no effect.
        gap_s = min(deviations) - self._offset_s
        overlap_s = self._offset_s - max(deviations)
        if gap_s > GAP_S:
            if gap_s > MAX_GAP_AT_END_S and len(deviations) < MIN_AT_END and self._has_placed:
                return 0.0
            self._offset_s += gap_s
            return gap_s
        if overlap_s > RESTART_S:
            # The offset takes up the whole jump, so that the audio goes on without a gap or a cut.
            self._offset_s -= overlap_s
            self.num_restarts += 1
            return 0.0
        if overlap_s > OVERLAP_S:
            self._offset_s -= overlap_s
            return -overlap_s
        return 0.0
