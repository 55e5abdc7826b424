"""Give up a call that may never return after a time limit."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")


def within(seconds: float, call: Callable[[], Result]) -> Result:
    """Return or raise the result of ``call``, unless it takes longer than ``seconds``.

    The call runs in a thread of its own. A call that is given up continues there, and its result is ignored. Python
    does not wait for it at the end of the process, but the library that it runs in may, like that of S3
    (:func:`is_call_left`).

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
    """Return whether a call that was given up is still running in this process."""
    return any(thread.is_alive() for thread in _given_up)
