"""Base class of the pipeline's actors, and functions that they share.

A row of the pipeline has ``clip_id``, the ``todo_<modality>`` columns, the inputs of the stages still to come (see
``media/clip.py``) and ``outcomes``, to which every stage appends one entry for each clip that it processed.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import cv2
import pyarrow as pa
from threadpoolctl import threadpool_limits

from emi_ray.errors import EmiRayError
from emi_ray.extraction.actors import own_life
from emi_ray.extraction.batches import outcome
from emi_ray.storage import in_words
from emi_ray.workspace import CONFIG, Workspace

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
"""The outcome of one clip in one stage.

``status`` is ok, missing (the clip lacks the input), failed (the clip is quarantined), or broken (the stage itself
cannot work, for example because of a full disk or a model that does not load; the run ends). ``seconds`` is the time
that the stage spent, ``media_s`` the length of the clip, ``actor`` the identity of the actor (``actors.py``).
"""

ALWAYS = ("clip_id", "missing", "failed", "notes")
"""Columns that every stage after decoding reads besides its own inputs."""


class Stage(ABC):
    """An actor of the pipeline.

    An error of the stage itself, not of a clip, becomes an outcome of every clip in the batch: if it were raised,
    Ray Data would silently drop the batch.
    """

    name: str

    def __call__(self, batch: pa.Table) -> pa.Table:
        # A later stage must not process rows of a broken one, whose columns are missing.
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
        """Process one batch."""


def require_workspace(workspace: Workspace) -> None:
    """Check that this node sees the workspace.

    A node whose mount is missing would create the folders of the workspace on its own disk, and write there.

    Raises:
        EmiRayError: it does not.
    """
    if workspace.is_local and not workspace.exists(CONFIG):
        raise not_mounted(workspace.path(CONFIG))


def not_mounted(path: str) -> EmiRayError:
    """Build the error for a file that the driver sees and this node does not."""
    node = f"node {own_life().node}" if own_life().node else "this node"
    return EmiRayError(
        f"{path} does not exist on {node}. Put the workspace and the media on a mount that all nodes share, and "
        "mount it there."
    )


def with_outcomes(batch: pa.Table, added: Mapping[str, Mapping[str, Any]]) -> pa.Table:
    """Return ``batch`` with one more outcome for each clip in ``added``."""
    so_far = zip(batch["clip_id"].to_pylist(), batch["outcomes"].to_pylist(), strict=True)
    grown = [[*before, added[clip]] if clip in added else before for clip, before in so_far]
    column = batch.schema.get_field_index("outcomes")
    return batch.set_column(column, "outcomes", pa.array(grown, pa.list_(OUTCOME)))


def take_up(threads: int, uses_gpu: bool) -> None:
    """Limit the threads of this process, and hide all GPUs from it unless ``uses_gpu``.

    A process for which Ray reserves no GPU would otherwise see all of them.
    """
    limit_threads(threads)
    # An empty list hides all GPUs from CUDA and ROCm; both read it when they are initialised.
    if not uses_gpu:
        os.environ.update(dict.fromkeys(_VISIBLE, ""))


_VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")


def limit_threads(threads: int) -> None:
    """Limit the threads of this process's numerical libraries, so that pools do not compete for cores."""
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read by torch when an extractor imports it
    threadpool_limits(threads)
    # OpenCV has a thread pool of its own, which threadpoolctl does not control.
    cv2.setNumThreads(threads)


def _is_broken(batch: pa.Table) -> bool:
    if "outcomes" not in batch.column_names:
        return False
    return any(entry["status"] == "broken" for row in batch["outcomes"].to_pylist() for entry in row)


def stop_if_broken(table: pa.Table) -> None:
    """Raise an error if a stage is broken, according to the outcomes of some clips.

    Raises:
        EmiRayError: with the reason that the stage gave.
    """
    outcomes = table["outcomes"].combine_chunks().flatten()
    index = outcomes.field("status").index("broken").as_py()
    if index >= 0:
        outcome = outcomes[index].as_py()
        raise EmiRayError(
            f"The {outcome['stage']} stage cannot work: {outcome['reason']} "
            f"What is done is kept; remove the cause and repeat the command."
        )
