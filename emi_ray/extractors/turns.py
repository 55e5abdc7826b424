"""A lock for a model that several threads of a process use."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType


class _Own(threading.local):
    """What this thread has: the turn that it takes part in, and whether it holds it now."""

    turn: "Turn | None" = None
    holds = False
    num_alone = 0


_own = _Own()


class Turn:
    """A lock that a thread holds while it launches work on a device, not while it waits for the results.

    A GPU processes the work that threads launch in order. A thread that packs its input lends the lock, and one that
    has launched all of its work leaves it, so that the next thread launches its batch before the GPU has finished the
    present one. A thread that took the lock back after each wait would queue several times per batch behind threads
    that launch, and the GPU would wait for it.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._is_taken = False
        self._num_busy = 0
        """Threads without the lock whose work is on the device, or will be: they have lent the lock or left it."""
        self._num_alone = 0

    def __enter__(self) -> None:
        _own.turn = self
        self.take()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if _own.holds:
            self._give_up()
        _own.turn = None

    def take(self) -> None:
        """Wait for the lock, unless this thread holds it."""
        if _own.holds:
            return
        with self._changed:
            # Newcomers wait while another thread wants to be alone; threads that take back a lent lock do not, since
            # it waits for them.
            self._changed.wait_for(lambda: not self._is_taken and self._num_alone == _own.num_alone)
            self._is_taken = _own.holds = True

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Let other threads take the lock while the ``with`` block runs."""
        self._give_up(is_busy=True)
        try:
            yield
        finally:
            with self._changed:
                self._changed.wait_for(lambda: not self._is_taken)
                self._is_taken = _own.holds = True
                self._num_busy -= 1

    @contextmanager
    def left(self) -> Iterator[None]:
        """Let other threads take the lock from now on; the work of this thread ends with the ``with`` block."""
        self._give_up(is_busy=True)
        try:
            yield
        finally:
            with self._changed:
                self._num_busy -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Wait until the work of all other threads is done, and admit no others while the ``with`` block runs.

        Yields:
            Whether other threads had work on the device.
        """
        with self._changed:
            had_others = self._num_busy > 0 or (self._is_taken and not _own.holds)
            self._num_alone += 1
            _own.num_alone += 1
            if _own.holds:
                self._is_taken = False
                self._changed.notify_all()
            self._changed.wait_for(lambda: not self._is_taken and not self._num_busy)
            self._is_taken = _own.holds = True
        try:
            yield had_others
        finally:
            with self._changed:
                self._num_alone -= 1
                _own.num_alone -= 1
                self._changed.notify_all()

    def _give_up(self, is_busy: bool = False) -> None:
        with self._changed:
            self._is_taken = _own.holds = False
            self._num_busy += is_busy
            self._changed.notify_all()


def turn_taken() -> None:
    """Take the lock of this thread again if the thread has left it."""
    if _own.turn:
        _own.turn.take()


@contextmanager
def turn_lent() -> Iterator[None]:
    """Lend the lock of this thread, if it holds one, to other threads while the ``with`` block runs."""
    if _own.turn is None or not _own.holds:
        yield
        return
    with _own.turn.lent():
        yield


@contextmanager
def turn_left() -> Iterator[None]:
    """Leave the lock of this thread, if it holds one, to other threads. The ``with`` block waits for the device."""
    if _own.turn is None or not _own.holds:
        yield
        return
    with _own.turn.left():
        yield


@contextmanager
def without_others() -> Iterator[bool]:
    """Keep other threads from the model while the ``with`` block runs, after those that use it are done.

    Yields:
        Whether there were such threads. If so, the device memory that they used is free now.
    """
    if _own.turn is None:
        yield False
        return
    with _own.turn.alone() as had_others:
        yield had_others
