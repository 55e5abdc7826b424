"""What all actors of the pipeline share.

A row on its way holds ``clip_id``, the ``todo_<modality>`` columns, the inputs of the stages still to come (see
``media/clip.py``) and ``outcomes``, to which every stage adds one entry for each clip that it worked on.
"""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import cv2
import pyarrow as pa
from threadpoolctl import threadpool_limits

from emi_ray.errors import ClipError, EmiRayError
from emi_ray.media.clip import DecodedClip

OUTCOME = pa.struct(
    [
        pa.field("stage", pa.string()),
        pa.field("status", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("seconds", pa.float32()),
        pa.field("media_s", pa.float32()),
    ]
)
"""What one stage made of one clip.

``status`` is ok, missing (the clip lacks the input), failed (it is quarantined), or broken (the stage itself
cannot work, for a full disk or a model that does not load; the run ends). ``seconds``: spent by the stage.
"""

ALWAYS = ("clip_id", "missing", "failed", "notes")
"""Columns that every stage after decoding reads beside its own inputs."""

Result = TypeVar("Result")


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
            reason = str(error) if isinstance(error, EmiRayError) else f"{type(error).__name__}: {error}"
            broken = [outcome(self.name, "broken", reason)]
            outcomes = pa.array([broken] * batch.num_rows, pa.list_(OUTCOME))
            return pa.table({"clip_id": batch["clip_id"], "outcomes": outcomes})

    @abstractmethod
    def process(self, batch: pa.Table) -> pa.Table:
        """The stage's work on one batch."""


@dataclass(frozen=True)
class Attempt(Generic[Result]):
    """What came of one clip: a result, or (stage, reason) of why there is none."""

    clip_id: str
    result: Result | None = None
    failure: tuple[str, str] | None = None
    seconds: float = 0.0
    is_unforeseen: bool = False
    """Whether the failure was no ``ClipError``."""

    def outcome(self, stage: str) -> dict[str, Any]:
        if self.failure is None:
            return outcome(stage, "ok", seconds=self.seconds)
        where, reason = self.failure
        return outcome(stage, "missing" if where == "missing" else "failed", reason, self.seconds)


def attempt(
    work: Callable[[Sequence[DecodedClip]], Sequence[Result]], clips: Sequence[DecodedClip], stage: str
) -> list[Attempt[Result]]:
    """Do ``work`` on all clips at once; if that fails, on one at a time, so that only the bad ones are lost."""
    if not clips:
        return []
    started = time.perf_counter()
    try:
        results = work(clips)
    except Exception as error:  # noqa: BLE001 - the one boundary that quarantines a clip
        if len(clips) > 1:
            return [one for clip in clips for one in attempt(work, [clip], stage)]
        unforeseen = not isinstance(error, ClipError)
        return [Attempt(clips[0].clip_id, failure=_explain(stage, error), is_unforeseen=unforeseen)]
    seconds = (time.perf_counter() - started) / len(clips)
    return [Attempt(c.clip_id, result, None, seconds) for c, result in zip(clips, results, strict=True)]


def outcome(
    stage: str, status: str, reason: str | None = None, seconds: float = 0.0, media_s: float = 0.0
) -> dict[str, Any]:
    """One entry of the ``outcomes`` column."""
    return {"stage": stage, "status": status, "reason": reason, "seconds": seconds, "media_s": media_s}


def with_outcomes(batch: pa.Table, added: Mapping[str, Mapping[str, Any]]) -> pa.Table:
    """``batch`` with one more outcome for each clip in ``added``."""
    so_far = zip(batch["clip_id"].to_pylist(), batch["outcomes"].to_pylist(), strict=True)
    grown = [[*before, added[clip]] if clip in added else before for clip, before in so_far]
    column = batch.schema.get_field_index("outcomes")
    return batch.set_column(column, "outcomes", pa.array(grown, pa.list_(OUTCOME)))


def limit_threads(threads: int) -> None:
    """Bound the threads of this process's numerical libraries: pools would otherwise fight for cores."""
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read by torch when an extractor imports it
    threadpool_limits(threads)
    cv2.setNumThreads(threads)


def _is_broken(batch: pa.Table) -> bool:
    if "outcomes" not in batch.column_names:
        return False
    return any(entry["status"] == "broken" for row in batch["outcomes"].to_pylist() for entry in row)


def _explain(stage: str, error: Exception) -> tuple[str, str]:
    if isinstance(error, ClipError):
        return error.stage, error.reason
    return stage, f"{type(error).__name__}: {error}"
