"""The stages that run on one GPU, in one process: each GPU has one, and in it one copy of each model."""

import threading
from collections.abc import Callable, Sequence

import pyarrow as pa

from emi_ray.extraction.stage import Stage


class Models(Stage):
    """Stages one after the other, as a chain of pools would run them.

    Several batches are on their way at once, each in a thread of its own, and no stage works on two: while one batch
    is prepared for a model on the CPU, another computes on the GPU.

    Args:
        builders: of the stages, in their order.
    """

    name = "models"

    def __init__(self, builders: Sequence[Callable[[], Stage]]) -> None:
        self._stages = [(build(), threading.Lock()) for build in builders]

    def process(self, batch: pa.Table) -> pa.Table:
        for stage, is_free in self._stages:
            with is_free:
                batch = stage(batch)
        return batch
