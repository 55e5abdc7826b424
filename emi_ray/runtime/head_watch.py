"""Detect the loss of a cluster's head while a command runs, and report it in one sentence.

Nothing works without the head. Ray lets calls hang for a minute and then ends the process from native code without
a message. Therefore a thread polls the head.
"""

import threading
import time

from emi_ray.errors import EmiRayError, UserError
from emi_ray.interruption import end_main_thread
from emi_ray.runtime.address import answers

SILENT_FOR_S = 30.0
"""A head may be silent for this time, because fault-tolerant heads restart. Ray itself gives up after 60 s."""

_ASK_EVERY_S = 2.0
_WAY_OUT_S = 10.0


class HeadLost(EmiRayError):
    """The head of the cluster is lost."""

    def __init__(self, address: str) -> None:
        super().__init__(
            f"The head of the Ray cluster at {address} no longer answers, so the run has ended. What is done is "
            f"kept: repeat the command when the cluster is back, to continue."
        )


class HeadWatch:
    """Polls the head of a cluster.

    When the head is lost, the main thread is interrupted. If that thread is stuck in native code, the process ends
    with exit code 1.
    """

    def __init__(self, address: str, silent_for_s: float = SILENT_FOR_S) -> None:
        self.address = address
        self.is_lost = False
        self._silent_for_s = silent_for_s
        self._over = threading.Event()
        self._may_interrupt = threading.current_thread() is threading.main_thread()
        self._thread = threading.Thread(target=self._watch, name="emi-ray-head-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()

    def explains(self, error: BaseException) -> bool:
        """Return whether an error is due to the loss of the head, even if the thread has not noticed the loss yet."""
        if self.is_lost:
            return True
        if isinstance(error, (UserError, KeyboardInterrupt, SystemExit, GeneratorExit)):
            return False
        # An error of Ray may come before the watching thread has given up waiting.
        return not answers(self.address)

    def _watch(self) -> None:
        last_answer = time.monotonic()
        while not self._over.wait(_ASK_EVERY_S):
            if answers(self.address):
                last_answer = time.monotonic()
            elif time.monotonic() - last_answer >= self._silent_for_s:
                break
        if self._over.is_set():
            return
        self.is_lost = True
        end_main_thread(self._over, str(HeadLost(self.address)), _WAY_OUT_S, self._may_interrupt)
