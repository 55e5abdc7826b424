"""The stages that run on one GPU, in one process: each GPU has one, and in it one copy of each model."""

import sys
from collections.abc import Callable, Sequence

import pyarrow as pa

from emi_ray.extraction.stage import Stage

SWITCH_INTERVAL_S = 0.0005
"""After which a thread that computes in Python lets another one on; Python's own is 5 ms. A thread that gives a GPU
its work asks for the interpreter at each of some hundred kernels, which take some 10 µs each."""


class Models(Stage):
    """Stages one after the other, as a chain of pools would run them.

    Several batches may be on their way at once, each in a thread of its own. A stage lets one thread at a time give
    work to its model; while the GPU computes it, other threads give it the next batch, prepare the one after, and
    write the features of the one before.

    Args:
        builders: of the stages, in their order.
    """

    name = "models"

    def __init__(self, builders: Sequence[Callable[[], Stage]]) -> None:
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._stages = [build() for build in builders]

    def process(self, batch: pa.Table) -> pa.Table:
        for stage in self._stages:
            batch = stage(batch)
        return batch
