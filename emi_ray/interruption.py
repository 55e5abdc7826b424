"""Interrupt the main thread from a thread that watches over it."""

import os
import signal
import sys
import threading
import time

INTERRUPTED = 130
"""The exit code after Ctrl-C, as in shells."""

_LOCK = threading.Lock()
_last_interrupt = float("-inf")


def end_main_thread(
    over: threading.Event, message: str, way_out_s: float, may_interrupt: bool = True
) -> None:
    """Interrupt the main thread like Ctrl-C does. If it does not react, print ``message`` and end the process with
    code 1.

    If several watchers find the same problem at once, the main thread is interrupted only once, so that it can
    clean up.

    Args:
        over: set as soon as the main thread has left the watched block.
        way_out_s: seconds that it gets to leave it.
        may_interrupt: False if another thread than the main one runs the block.
    """
    if may_interrupt:
        _interrupt_once(over, way_out_s)
        if over.wait(way_out_s):
            return
    sys.stdout.flush()
    print(f"Failed: {message}", file=sys.stderr, flush=True)
    # sys.exit would end only this thread, and the main thread may be inside native code that never returns.
    os._exit(1)


def _interrupt_once(over: threading.Event, way_out_s: float) -> None:
    global _last_interrupt
    with _LOCK:
        if over.is_set() or time.monotonic() - _last_interrupt < way_out_s:
            return
        _last_interrupt = time.monotonic()
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:
        signal.pthread_kill(main, signal.SIGINT)  # unlike raise_signal, this also interrupts system calls
    else:
        signal.raise_signal(signal.SIGINT)
