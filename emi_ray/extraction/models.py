"""The stages that run on one GPU, in one process: each GPU has one, and in it one copy of each model."""

from collections.abc import Callable, Sequence

import pyarrow as pa

from emi_ray.extraction.stage import Stage


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
        self._stages = [build() for build in builders]

    def process(self, batch: pa.Table) -> pa.Table:
        for stage in self._stages:
            batch = stage(batch)
        return batch
