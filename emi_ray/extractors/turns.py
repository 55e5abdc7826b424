"""Whose turn it is at a model that several threads of a process use."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

_held = threading.local()


class Turn:
    """A lock that its thread can lend to the next one while it waits for the device.

    A GPU works through what threads give it in their order. A thread that only waits for its results need not keep
    others from giving it more work: so the GPU has the next batch before it ends the present one.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._is_taken = False
        self._num_lent = 0
        self._num_alone = 0

    def __enter__(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._is_taken and not self._num_alone)
            self._is_taken = True
        _held.turn = self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _held.turn = None
        self._give_up()

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Let others take the turn during the block."""
        self._num_lent += 1  # by the thread that has the turn, so that no other changes it
        self._give_up()
        try:
            yield
        finally:
            with self._changed:
                self._changed.wait_for(lambda: not self._is_taken)
                self._is_taken = True
                self._num_lent -= 1

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Wait until the threads that lent their turn have left, and admit none during the block.

        Yields whether there were such threads.
        """
        had_others = self._num_lent > 0
        with self._changed:
            self._num_alone += 1
            self._is_taken = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._is_taken and not self._num_lent)
            self._is_taken = True
        try:
            yield had_others
        finally:
            with self._changed:
                self._num_alone -= 1

    def _give_up(self) -> None:
        with self._changed:
            self._is_taken = False
            self._changed.notify_all()


@contextmanager
def turn_lent() -> Iterator[None]:
    """Let other threads take their turn during the block, where this thread has one."""
    turn: Turn | None = getattr(_held, "turn", None)
    if turn is None:
        yield
        return
    with turn.lent():
        yield


@contextmanager
def without_others() -> Iterator[bool]:
    """Keep other threads from the model during the block, once those that use it have left.

    Yields whether there were any: what they held of the device's memory is free then.
    """
    turn: Turn | None = getattr(_held, "turn", None)
    if turn is None:
        yield False
        return
    with turn.alone() as had_others:
        yield had_others
