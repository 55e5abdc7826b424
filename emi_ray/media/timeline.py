"""Where each piece of sound goes on the clock of its clip, told by timestamps."""

from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

Piece = TypeVar("Piece")

LOOKAHEAD = 8
"""Pieces that are waited for before a shift is believed: timestamps that only jitter come back within these."""
GAP_S = 0.010
"""Shorter gaps are rounding; the shortest piece that any codec can lose is hardly shorter."""
OVERLAP_S = 0.050
"""Shorter overlaps are ignored: cutting sound does more harm than such a delay."""
RESTART_S = 1.0
"""Timestamps that jump back further than this have started anew, as in files that were joined."""


@dataclass(frozen=True)
class Placed(Generic[Piece]):
    """A piece of sound, and the seconds of silence that stand before it, or of sound to be cut there (negative)."""

    piece: Piece
    shift_s: float


class SoundTimeline(Generic[Piece]):
    """Orders pieces of sound by their timestamps: gaps become silence, overlaps are cut.

    Pieces follow each other without a break as long as their timestamps say so. Where the timestamps of a piece and
    of the ``LOOKAHEAD`` pieces behind it are all later than the sound so far reaches, something is missing, by the
    least of these differences; where all are earlier, something is there twice. Timestamps that go back by more than
    ``RESTART_S`` say nothing of time: the sound simply goes on.

    Attributes:
        num_restarts: how often timestamps started anew.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[Piece, float]] = deque()
        self._next_s = 0.0
        self._offset_s = 0.0
        self._last_deviation_s = 0.0
        self.num_restarts = 0

    def push(self, piece: Piece, start_s: float | None, duration_s: float) -> list[Placed[Piece]]:
        """Take the next piece; returns those whose place is known by now.

        Args:
            start_s: when it begins on the clip's clock; None where nobody knows.
            duration_s: its length.
        """
        deviation_s = self._last_deviation_s if start_s is None else start_s - self._next_s
        self._last_deviation_s = deviation_s
        self._next_s += duration_s
        self._waiting.append((piece, deviation_s))
        return [self._place()] if len(self._waiting) > LOOKAHEAD else []

    def finish(self) -> list[Placed[Piece]]:
        """Those that are still waiting."""
        return [self._place() for _ in range(len(self._waiting))]

    def _place(self) -> Placed[Piece]:
        deviations = [deviation_s for _, deviation_s in self._waiting]
        piece, _ = self._waiting.popleft()
        gap_s = min(deviations) - self._offset_s
        overlap_s = self._offset_s - max(deviations)
        if gap_s > GAP_S:
            self._offset_s += gap_s
            return Placed(piece, gap_s)
        if overlap_s > RESTART_S:
            self._offset_s -= overlap_s
            self.num_restarts += 1
            return Placed(piece, 0.0)
        if overlap_s > OVERLAP_S:
            self._offset_s -= overlap_s
            return Placed(piece, -overlap_s)
        return Placed(piece, 0.0)
