"""A call that may wait for ever, given up after a while."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")


def within(seconds: float, call: Callable[[], Result]) -> Result:
    """What ``call`` returns or raises, unless that takes longer than ``seconds``.

    The call runs in a thread of its own. One that is given up goes on there, and nobody hears of it. Python does not
    wait for it at the end of the process; a library that it is in may, as that of S3 does (:func:`is_call_left`).

    Raises:
        TimeoutError: it took longer.
    """
    answer: Future[Result] = Future()

    def ask() -> None:
        try:
            answer.set_result(call())
        except Exception as error:  # noqa: BLE001 - raised again in the caller's thread
            answer.set_exception(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        return answer.result(seconds)
    finally:
        if not answer.done():
            _given_up.append(thread)


_given_up: list[threading.Thread] = []


def is_call_left() -> bool:
    """Whether a call that was given up still goes on in this process."""
    return any(thread.is_alive() for thread in _given_up)
