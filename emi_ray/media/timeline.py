"""Place pieces of audio on the time axis of their clip, by their timestamps."""

from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

Piece = TypeVar("Piece")

LOOKAHEAD = 8
"""Number of further pieces that must confirm a shift. Timestamps with mere jitter return within this number."""
GAP_S = 0.010
"""Shorter gaps are rounding errors. The shortest piece that a codec can lose is hardly shorter than this."""
OVERLAP_S = 0.050
"""Shorter overlaps are ignored, because cutting audio would do more harm than such a delay."""
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

    Attributes:
        num_restarts: number of times that timestamps restarted.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[Piece, float]] = deque()
        self._next_s = 0.0
        self._offset_s = 0.0
        self._last_deviation_s = 0.0
        self.num_restarts = 0

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
        piece, _ = self._waiting.popleft()
        # A shift counts only if all waiting pieces confirm it, so jitter of single timestamps has no effect.
        gap_s = min(deviations) - self._offset_s
        overlap_s = self._offset_s - max(deviations)
        if gap_s > GAP_S:
            self._offset_s += gap_s
            return Placed(piece, gap_s)
        if overlap_s > RESTART_S:
            # The offset takes up the whole jump, so that the audio goes on without a gap or a cut.
            self._offset_s -= overlap_s
            self.num_restarts += 1
            return Placed(piece, 0.0)
        if overlap_s > OVERLAP_S:
            self._offset_s -= overlap_s
            return Placed(piece, -overlap_s)
        return Placed(piece, 0.0)
