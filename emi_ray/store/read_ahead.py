"""Read the next items in threads."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

TABLES_AHEAD = 3
"""Number of tables of a store that are read at the same time."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(read: Callable[[Item], Result], items: Iterator[Item], num: int) -> Iterator[Result]:
    """Yield the result of ``read`` for each item, in order.

    While one result is used, the next ``num`` are read in threads.
    """
    pool = ThreadPoolExecutor(num)
    reading: deque = deque()
    try:
        for item in items:
            reading.append(pool.submit(read, item))
            if len(reading) > num:
                yield reading.popleft().result()
        while reading:
            yield reading.popleft().result()
    finally:
        # Also when the consumer stops early: reads that have not begun are not needed any more.
        pool.shutdown(cancel_futures=True)
