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
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()
        _held.turn = self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _held.turn = None
        self._lock.release()

    def lend(self) -> None:
        self._lock.release()

    def take_back(self) -> None:
        self._lock.acquire()


@contextmanager
def turn_lent() -> Iterator[None]:
    """Let other threads take their turn during the block, where this thread has one."""
    turn: Turn | None = getattr(_held, "turn", None)
    if turn is None:
        yield
        return
    turn.lend()
    try:
        yield
    finally:
        turn.take_back()
