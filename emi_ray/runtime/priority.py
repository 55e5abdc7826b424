"""Lower the priority of a process whose work can wait."""

import os
from functools import cache

MORE_NICENESS = 5
"""Niceness that is added to that of Ray's processes. These have 15 and the maximum is 19, so that a
process with 5 more gets two fifths of the time of another one of Ray's if both need the same core."""


@cache
def lower_priority() -> None:
    """Lower the priority of this process; cached, because several tasks may run in one process.

    It cannot be raised again, so a task that calls this needs a runtime environment of its own: Ray reuses a process
    only for tasks of the same environment.
    """
    os.nice(MORE_NICENESS)
