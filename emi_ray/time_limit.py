"""A call that may wait for ever, given up after a while."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")


def within(seconds: float, call: Callable[[], Result]) -> Result:
    """What ``call`` returns or raises, unless that takes longer than ``seconds``.

    The call runs in a thread of its own. One that is given up goes on there, and nobody hears of it; it does not
    keep the process from ending.

    Raises:
        TimeoutError: it took longer.
    """
    answer: Future[Result] = Future()

    def ask() -> None:
        try:
            answer.set_result(call())
        except Exception as error:  # noqa: BLE001 - raised again in the caller's thread
            answer.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    return answer.result(seconds)
