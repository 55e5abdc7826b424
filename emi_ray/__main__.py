"""The program ``emi-ray``, which is also ``python -m emi_ray``."""

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from emi_ray.interruption import INTERRUPTED


def main() -> None:
    """Import the command line and run it. Ctrl-C ends the process quietly even while modules are still imported."""
    handler = signal.getsignal(signal.SIGINT)
    is_heard = handler not in (signal.SIG_IGN, None)  # a job in the background of a shell ignores Ctrl-C
    if is_heard:
        # An exception would not do: some libraries turn one that is raised while they are imported into another.
        signal.signal(signal.SIGINT, _end_quietly)
    from emi_ray.cli import main as run

    if is_heard:
        signal.signal(signal.SIGINT, handler)
    run()


def _end_quietly(number: int, frame: FrameType | None) -> NoReturn:
    print("Interrupted.", file=sys.stderr, flush=True)
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
