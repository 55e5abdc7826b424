"""A lock for a model that several threads of a process use."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

_held = threading.local()


class Turn:
    """A lock that its thread can lend to another thread while it waits for the device.

    A GPU processes the work that threads launch in order. A thread that only waits for results does not need the
    lock, and lending it lets the next thread launch its batch before the GPU has finished the present one.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._is_taken = False
        self._num_lent = 0
        self._num_alone = 0

    def __enter__(self) -> None:
        with self._changed:
            # Newcomers wait while a thread wants to be alone; threads that take back a lent lock do not, since it
            # waits for them.
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
        """Let other threads take the lock while the ``with`` block runs."""
        self._num_lent += 1  # safe without the condition: only the thread that holds the lock changes it
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
        """Wait until the threads that have lent their lock are done, and admit no others while the ``with`` block
        runs.

        Yields:
            Whether there were such threads.
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
    """Lend the lock of this thread, if it holds one, to other threads while the ``with`` block runs."""
    turn: Turn | None = getattr(_held, "turn", None)
    if turn is None:
        yield
        return
    with turn.lent():
        yield


@contextmanager
def without_others() -> Iterator[bool]:
    """Keep other threads from the model while the ``with`` block runs, after those that use it are done.

    Yields:
        Whether there were such threads. If so, the device memory that they used is free now.
    """
    turn: Turn | None = getattr(_held, "turn", None)
    if turn is None:
        yield False
        return
    with turn.alone() as had_others:
        yield had_others
