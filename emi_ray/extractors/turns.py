"""A lock for a model that several threads of a process use."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
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


class _Process:
    """What the turns of all models of this process have in common, because the models share the memory of a device.

    Attributes:
        changed: guards all attributes and those of every turn; notified when one of them changes.
        num_holding: number of threads that hold the lock of their model.
        num_busy: number of threads without the lock whose work is on the device, or will be: they have lent the lock
            or left it.
        num_alone: number of threads that are alone, or wait to be.
        owner: the thread that is alone.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.num_holding = self.num_busy = self.num_alone = 0
        self.owner: int | None = None


_process = _Process()


class Turn:
    """A lock that a thread holds while it launches work on a device, not while it waits for the results.

    A GPU processes the work that threads launch in order. A thread that packs its input lends the lock, and one that
    has launched all of its work leaves it, so that the next thread launches its batch before the GPU has finished the
    present one. A thread that took the lock back after each wait would queue several times per batch behind threads
    that launch, and the GPU would wait for it.

    Args:
        may_lend: whether the lock is lent. It is of no use to a model that waits for its results step by step: each
            thread that lent the lock would wait for whole batches of the others.
    """

    def __init__(self, may_lend: bool = True) -> None:
        self.may_lend = may_lend
        self._is_taken = False

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
        with _process.changed:
            _process.changed.wait_for(
                lambda: not self._is_taken and (_process.owner == me or not _process.num_alone)
            )
            self._hold()

    def leave(self) -> None:
        """Let other threads take the lock. The work of this thread is on the device until :meth:`end_work`."""
        _own.is_busy = True
        self._give_up(is_busy=True)

    def end_work(self) -> None:
        """Note that the device has finished the work of this thread, and that its memory is free."""
        if not _own.is_busy:
            return
        _own.is_busy = False
        with _process.changed:
            _process.num_busy -= 1
            _process.changed.notify_all()

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Let other threads take the lock while the ``with`` block runs."""
        self._give_up(is_busy=True)
        try:
            yield
        finally:
            with _process.changed:
                # Threads that want to be alone wait for this one, so it need not wait for them.
                _process.changed.wait_for(lambda: not self._is_taken)
                self._hold()
                _process.num_busy -= 1

    @property
    def is_alone(self) -> bool:
        """Whether no other thread of this process may use a model, because this one wants to be alone."""
        return _process.owner == threading.get_ident()

    def become_alone(self) -> bool:
        """Wait until no other thread of this process uses a model, this one or another, and admit none until
        :meth:`end_alone`. Returns whether there were such threads.
        """
        with _process.changed:
            others = _process.num_busy + _process.num_holding + _process.num_alone - int(_own.holds)
            _process.num_alone += 1
            if _own.holds:
                # Two threads that hold the locks of their models and want to be alone would wait for each other.
                self._release()
            _process.changed.wait_for(
                lambda: not _process.num_holding and not _process.num_busy and _process.owner is None
            )
            self._hold()
            _process.owner = threading.get_ident()
        return others > 0

    def end_alone(self) -> None:
        """Admit other threads again."""
        with _process.changed:
            _process.num_alone -= 1
            _process.owner = None
            _process.changed.notify_all()

    def _give_up(self, is_busy: bool = False) -> None:
        with _process.changed:
            _process.num_busy += is_busy
            self._release()

    def _hold(self) -> None:
        self._is_taken = _own.holds = True
        _process.num_holding += 1

    def _release(self) -> None:
        self._is_taken = _own.holds = False
        _process.num_holding -= 1
        _process.changed.notify_all()


Waiting = Callable[[], AbstractContextManager[None]]
"""Makes a context in which a thread waits, for example one in which a time limit is suspended."""


@contextmanager
def turn_taken(waiting: Waiting = nullcontext) -> Iterator[None]:
    """Hold the lock of this thread, if it has one, from the start of the ``with`` block until :func:`leave_turn`. The
    device memory that the block has used is free at its end.
    """
    if _own.turn is None:
        yield
        return
    if not _own.holds:
        with waiting():
            _own.turn.take()
    try:
        yield
    finally:
        _own.turn.end_work()


@contextmanager
def turn_lent() -> Iterator[None]:
    """Lend the lock of this thread, if it holds one, to other threads while the ``with`` block runs."""
    if _own.turn is None or not _own.holds or not _own.turn.may_lend:
        yield
        return
    with _own.turn.lent():
        yield


def leave_turn() -> None:
    """Leave the lock of this thread, if it holds one, to other threads: all of its work is launched."""
    if _own.turn is not None and _own.holds:
        _own.turn.leave()


@contextmanager
def without_others(waiting: Waiting = nullcontext) -> Iterator[bool]:
    """Keep other threads from all models of this process while the ``with`` block runs, after those that use one are
    done.

    Yields:
        Whether there were such threads. If so, the device memory that they used is free now.
    """
    with nullcontext() if _own.turn else Turn():
        turn = _own.turn
        assert turn is not None
        if turn.is_alone:
            turn.take()
            yield False
            return
        with waiting():
            had_others = turn.become_alone()
        try:
            yield had_others
        finally:
            turn.end_alone()
