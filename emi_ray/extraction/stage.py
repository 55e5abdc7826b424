"""What all actors of the pipeline share.

A row on its way holds ``clip_id``, the ``todo_<modality>`` columns, the inputs of the stages still to come (see
``media/clip.py``) and ``outcomes``, to which every stage adds one entry for each clip that it worked on.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import cv2
import pyarrow as pa
from threadpoolctl import threadpool_limits

from emi_ray.extraction.batches import outcome
from emi_ray.storage import in_words

OUTCOME = pa.struct(
    [
        pa.field("stage", pa.string()),
        pa.field("status", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("seconds", pa.float32()),
        pa.field("media_s", pa.float32()),
        pa.field("actor", pa.string()),
    ]
)
"""What one stage made of one clip.

``status`` is ok, missing (the clip lacks the input), failed (it is quarantined), or broken (the stage itself
cannot work, for a full disk or a model that does not load; the run ends). ``seconds``: spent by the stage.
``actor``: who did it, see ``actors.py``.
"""

ALWAYS = ("clip_id", "missing", "failed", "notes")
"""Columns that every stage after decoding reads beside its own inputs."""


class Stage(ABC):
    """An actor of the pipeline.

    What goes wrong with the stage itself, not with a clip, becomes an outcome of every clip in the batch: an
    exception would make Ray Data drop the batch in silence.
    """

    name: str

    def __call__(self, batch: pa.Table) -> pa.Table:
        if _is_broken(batch):
            return batch.select(["clip_id", "outcomes"])
        try:
            return self.process(batch)
        except Exception as error:  # noqa: BLE001 - becomes the error that ends the run
            broken = [outcome(self.name, "broken", in_words(error))]
            outcomes = pa.array([broken] * batch.num_rows, pa.list_(OUTCOME))
            return pa.table({"clip_id": batch["clip_id"], "outcomes": outcomes})

    @abstractmethod
    def process(self, batch: pa.Table) -> pa.Table:
        """The stage's work on one batch."""


def with_outcomes(batch: pa.Table, added: Mapping[str, Mapping[str, Any]]) -> pa.Table:
    """``batch`` with one more outcome for each clip in ``added``."""
    so_far = zip(batch["clip_id"].to_pylist(), batch["outcomes"].to_pylist(), strict=True)
    grown = [[*before, added[clip]] if clip in added else before for clip, before in so_far]
    column = batch.schema.get_field_index("outcomes")
    return batch.set_column(column, "outcomes", pa.array(grown, pa.list_(OUTCOME)))


def take_up(threads: int, uses_gpu: bool) -> None:
    """Bound this process's threads, and hide the GPUs from it unless it was given one.

    A process for which Ray reserves no GPU would see all of them.
    """
    limit_threads(threads)
    if not uses_gpu:
        os.environ.update(dict.fromkeys(_VISIBLE, ""))


_VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")


def limit_threads(threads: int) -> None:
    """Bound the threads of this process's numerical libraries: pools would otherwise fight for cores."""
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read by torch when an extractor imports it
    threadpool_limits(threads)
    cv2.setNumThreads(threads)


def _is_broken(batch: pa.Table) -> bool:
    if "outcomes" not in batch.column_names:
        return False
    return any(entry["status"] == "broken" for row in batch["outcomes"].to_pylist() for entry in row)
