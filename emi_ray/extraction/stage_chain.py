"""Run several stages in sequence in one process: those of one GPU, or those on the CPU without a model."""

import sys
from collections.abc import Callable, Sequence

import pyarrow as pa

from emi_ray.extraction.stage import Stage

SWITCH_INTERVAL_S = 0.0005
"""Interval after which a thread that runs Python code yields the interpreter; Python's default is 5 ms. A thread that
launches GPU kernels needs the interpreter for each of some hundred kernels, which take about 10 µs each."""


class StageChain(Stage):
    """The stages of one process, in sequence, instead of a chain of pools.

    On a GPU several batches are processed at once, each in a thread of its own. A stage lets one thread at a time
    launch work on its model. While the GPU computes, other threads launch the next batch, prepare the one after it,
    and write the features of the previous one.

    Args:
        builders: create the stages, in order.
    """

    name = "stages"

    def __init__(self, builders: Sequence[Callable[[], Stage]]) -> None:
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._stages = [build() for build in builders]

    def process(self, batch: pa.Table) -> pa.Table:
        for stage in self._stages:
            batch = stage(batch)
        return batch
