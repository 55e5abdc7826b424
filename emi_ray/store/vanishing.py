"""Repeat a read if a running extraction has merged parts meanwhile, so that a file has vanished."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TypeVar

import pyarrow as pa

_ATTEMPTS = 5

Result = TypeVar("Result")


def until_none_vanishes(read: Callable[[], Result]) -> Result:
    """Return the result of ``read``."""
    for _ in range(_ATTEMPTS - 1):
        with suppress(FileNotFoundError):
            return read()
    return read()


def tables_until_none_vanishes(read: Callable[[], Iterator[pa.Table]]) -> Iterator[pa.Table]:
    """Yield the tables of ``read``. A repeated read begins with the first table again."""
    for _ in range(_ATTEMPTS - 1):
        with suppress(FileNotFoundError):
            yield from read()
            return
    yield from read()
