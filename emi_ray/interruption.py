"""Ending what the main thread does, from a thread that watches over it."""

import os
import signal
import sys
import threading
import time

INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells have it."""

_LOCK = threading.Lock()
_last_interrupt = float("-inf")


def end_main_thread(
    over: threading.Event, message: str, way_out_s: float, may_interrupt: bool = True
) -> None:
    """Interrupt the main thread as Ctrl-C does; when it is stuck, say ``message`` and end the process with code 1.

    Several watchers may find the same trouble at once: the main thread is interrupted once, so that it can clean up.

    Args:
        over: set as soon as the main thread has left the block that is watched.
        way_out_s: how long it may take to leave it.
        may_interrupt: False where another thread than the main one is in the block.
    """
    if may_interrupt:
        _interrupt_once(over, way_out_s)
        if over.wait(way_out_s):
            return
    sys.stdout.flush()
    print(f"Failed: {message}", file=sys.stderr, flush=True)
    os._exit(1)


def _interrupt_once(over: threading.Event, way_out_s: float) -> None:
    global _last_interrupt
    with _LOCK:
        if over.is_set() or time.monotonic() - _last_interrupt < way_out_s:
            return
        _last_interrupt = time.monotonic()
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:
        signal.pthread_kill(main, signal.SIGINT)  # a real signal wakes system calls too
    else:
        signal.raise_signal(signal.SIGINT)
