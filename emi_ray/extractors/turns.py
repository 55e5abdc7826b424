"""A lock for a model that several threads of a process use."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType


class _Own(threading.local):
    """What this thread has.

    Attributes:
        turn: the turn that the thread takes part in.
        holds: whether it holds the lock now.
        is_busy: whether it has left the lock and its work is on the device.
    """

    turn: "Turn | None" = None
    holds = False
    is_busy = False


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
        """Threads that are alone, or wait to be."""
        self._owner: int | None = None
        """The thread that is alone."""

    def __enter__(self) -> None:
        _own.turn = self
        self.take()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end_work()
        if _own.holds:
            self._give_up()
        _own.turn = None

    def take(self) -> None:
        """Wait for the lock, unless this thread holds it."""
        if _own.holds:
            return
        me = threading.get_ident()
        with self._changed:
            self._changed.wait_for(lambda: not self._is_taken and (self._owner == me or not self._num_alone))
            self._is_taken = _own.holds = True

    def leave(self) -> None:
        """Let other threads take the lock. The work of this thread is on the device until :meth:`end_work`."""
        _own.is_busy = True
        self._give_up(is_busy=True)

    def end_work(self) -> None:
        """Note that the device has finished the work of this thread, and that its memory is free."""
        if not _own.is_busy:
            return
        _own.is_busy = False
        with self._changed:
            self._num_busy -= 1
            self._changed.notify_all()

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Let other threads take the lock while the ``with`` block runs."""
        self._give_up(is_busy=True)
        try:
            yield
        finally:
            with self._changed:
                # Threads that want to be alone wait for this one, so it need not wait for them.
                self._changed.wait_for(lambda: not self._is_taken)
                self._is_taken = _own.holds = True
                self._num_busy -= 1

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Wait until the work of all other threads is done, and admit no others while the ``with`` block runs.

        Yields:
            Whether other threads had work on the device.
        """
        me = threading.get_ident()
        if self._owner == me:
            self.take()
            yield False
            return
        with self._changed:
            had_others = self._num_busy > 0 or (self._is_taken and not _own.holds)
            self._num_alone += 1
            if _own.holds:
                self._is_taken = False
                self._changed.notify_all()
            self._changed.wait_for(lambda: not self._is_taken and not self._num_busy and self._owner is None)
            self._is_taken = _own.holds = True
            self._owner = me
        try:
            yield had_others
        finally:
            with self._changed:
                self._num_alone -= 1
                self._owner = None
                self._changed.notify_all()

    def _give_up(self, is_busy: bool = False) -> None:
        with self._changed:
            self._is_taken = _own.holds = False
            self._num_busy += is_busy
            self._changed.notify_all()


@contextmanager
def turn_taken() -> Iterator[None]:
    """Hold the lock of this thread, if it has one, from the start of the ``with`` block until :func:`leave_turn`. The
    device memory that the block has used is free at its end.
    """
    if _own.turn is None:
        yield
        return
    _own.turn.take()
    try:
        yield
    finally:
        _own.turn.end_work()


@contextmanager
def turn_lent() -> Iterator[None]:
    """Lend the lock of this thread, if it holds one, to other threads while the ``with`` block runs."""
    if _own.turn is None or not _own.holds:
        yield
        return
    with _own.turn.lent():
        yield


def leave_turn() -> None:
    """Leave the lock of this thread, if it holds one, to other threads: all of its work is launched."""
    if _own.turn is not None and _own.holds:
        _own.turn.leave()


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
