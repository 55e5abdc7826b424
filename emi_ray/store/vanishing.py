"""Repeat a read if a running extraction has merged parts meanwhile, so that a file has vanished."""

import errno
import re
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import pyarrow as pa

_ATTEMPTS = 5
_PAUSE_S = 0.2

_GONE = re.compile("NO_SUCH_KEY|RESOURCE_NOT_FOUND|HTTP status 404", re.IGNORECASE)

Result = TypeVar("Result")


def until_none_vanishes(read: Callable[[], Result]) -> Result:
    """Return the result of ``read``."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return read()
        except OSError as error:
            _raise_or_wait(error, attempt)
    raise AssertionError


def tables_until_none_vanishes(read: Callable[[], Iterator[pa.Table]]) -> Iterator[pa.Table]:
    """Yield the tables of ``read``. A repeated read begins with the first table again."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            yield from read()
            return
        except OSError as error:
            _raise_or_wait(error, attempt)


def _raise_or_wait(error: OSError, attempt: int) -> None:
    """Return after a pause if a file has vanished and another attempt is left; otherwise raise the error.

    A file that is deleted while it is open has other errors than one that was never there: on NFS, if another node
    deletes it, and in an object store, if it had a size when it was asked for.
    """
    is_gone = (
        isinstance(error, FileNotFoundError) or error.errno == errno.ESTALE or bool(_GONE.search(str(error)))
    )
    if not is_gone or attempt == _ATTEMPTS:
        raise error
    time.sleep(_PAUSE_S * (attempt - 1))
