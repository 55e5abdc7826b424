"""Apply one extractor to clips in this process.

An error is attributed to the clip that causes it. A batch that does not fit into memory is split in halves.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

from emi_ray.errors import ClipError
from emi_ray.extraction.actors import own_name
from emi_ray.extraction.device_errors import (
    free_device_memory,
    is_certainly_memory,
    is_device_lost,
    is_out_of_memory,
)
from emi_ray.extraction.watchdog import WATCH
from emi_ray.extractors.turns import turn_taken, without_others
from emi_ray.media.clip import DecodedClip

Result = TypeVar("Result")
Made = TypeVar("Made", covariant=True)

SMALLER_STEPS_FIRST = 2
"""How often the steps of a tool become smaller before fewer clips are processed at once."""

RARE = 20
"""Number of batches since the last lack of memory after which the next one is taken for a coincidence."""


class Tool(Protocol[Made]):
    """An operation that a stage applies to clips: an extractor or a speech recogniser with its model loaded."""

    feature_dim: int | None

    def __call__(self, clips: Sequence[DecodedClip]) -> Sequence[Made]:
        """Return one result for each clip."""

    def use_less_memory(self) -> bool:
        """Work in smaller steps from now on. Returns False if that is not possible."""


class DeviceLostError(Exception):
    """The process can no longer use its device. The clips of the batch are not the cause."""


@dataclass(frozen=True)
class Attempt(Generic[Result]):
    """The result of one clip, or (stage, reason) of its failure.

    Attributes:
        seconds: time spent on the clip, failed tries included.
    """

    clip_id: str
    result: Result | None = None
    failure: tuple[str, str] | None = None
    seconds: float = 0.0
    is_unforeseen: bool = False
    """Whether the failure was an exception other than ``ClipError``."""

    def after(self, seconds: float) -> "Attempt[Result]":
        """Return this attempt with the time of an earlier try added."""
        return replace(self, seconds=self.seconds + seconds)

    def outcome(self, stage: str, remarks: Sequence[str] = ()) -> dict[str, Any]:
        """Return the outcome of the clip, with remarks on its result if there is one."""
        if self.failure is None:
            return outcome(stage, "ok", "\n".join(remarks) or None, self.seconds)
        where, reason = self.failure
        return outcome(stage, "missing" if where == "missing" else "failed", reason, self.seconds)


class Batches(Generic[Result]):
    """Apply a tool to as many clips at once as fit into memory.

    When memory runs out while other threads use models, of this stage or another, the batch is repeated alone, and
    the sizes stay: large batches may have come together by chance. If that happens often, or if the batch does not
    fit alone, the tool first works in smaller steps, then on half of the clips, down to a single clip, and then in
    the smallest steps. The sizes that fitted are kept for later batches. Steps are not reduced further at first,
    because a batch of long clips may not fit with any steps, and would slow down all later batches. After any
    other error the clips of the batch are repeated one by one, so that only the faulty clips are lost.

    Args:
        tool: the operation.
        stage: name of the stage, for failures.
        largest: initial limit of clips at once; None for no limit.
        has_device: whether this process is the one that Ray gave the device to. In a child process other models of
            its parent may be the reason why a clip does not fit into memory.
    """

    def __init__(
        self, tool: Tool[Result], stage: str, largest: int | None = None, has_device: bool = True
    ) -> None:
        self._tool = tool
        self._has_device = has_device
        self._stage = stage
        self.largest = largest
        """Maximum number of clips at once; None for no limit."""
        self._num_smaller_steps = 0
        self._largest_before: int | None = None
        """The number of clips at once before it was halved, to return to if the size of the steps was the cause."""
        self._free_since = float("-inf")
        self._num_since_lack = RARE
        """Batches that fitted since the last lack of memory while other threads used models."""
        self._num_lacks = 0
        """Number of such lacks; those of several batches at the same time count as one."""

    def run(self, clips: Sequence[DecodedClip]) -> list[Attempt[Result]]:
        """Return one attempt for each clip, in order.

        Raises:
            DeviceLostError: the process can no longer use its device.
        """
        done: list[Attempt[Result]] = []
        while len(done) < len(clips):
            rest = clips[len(done) :]
            done += self._at_once(rest[: self.largest])
        return done

    def _at_once(self, clips: Sequence[DecodedClip]) -> list[Attempt[Result]]:
        started, lacks = time.perf_counter(), self._num_lacks
        try:
            with turn_taken(WATCH.paused):
                results = self._tool(clips)
        except Exception as error:
            if is_device_lost(error):
                raise DeviceLostError(f"{type(error).__name__}: {error}") from error
            # Only the text is kept: the exception itself refers to the tensors of the failed batch.
            lack = f"{type(error).__name__}: {error}" if is_out_of_memory(error) else None
            failure, is_unforeseen = explain(self._stage, error), not isinstance(error, ClipError)
        else:
            self._num_since_lack += 1
            seconds = self._seconds_since(started) / len(clips)
            return [Attempt(c.clip_id, r, None, seconds) for c, r in zip(clips, results, strict=True)]
        # The batch is repeated here and not in the handler above, where the exception keeps its tensors in memory.
        seconds = self._seconds_since(started) / len(clips)
        if lack is not None:
            again = self._in_less_memory(clips, lack, lacks)
        elif len(clips) > 1:
            # The error may belong to a single clip, and does not say to which.
            again = [one for clip in clips for one in self._at_once([clip])]
        else:
            again = [Attempt(clips[0].clip_id, failure=failure, is_unforeseen=is_unforeseen)]
        return [one.after(seconds) for one in again]

    def _seconds_since(self, started: float) -> float:
        """Return the seconds to attribute to a batch that ends now.

        Batches of several threads overlap, and the device processes them in order. The time before the previous batch
        ended was therefore spent on that one, and is not counted again.
        """
        now = time.perf_counter()
        # The right side is evaluated first, so the maximum uses the end of the previous batch.
        started, self._free_since = max(started, self._free_since), now
        return now - started

    def _in_less_memory(
        self, clips: Sequence[DecodedClip], lack: str, lacks_before: int
    ) -> list[Attempt[Result]]:
        """Repeat a batch that began after ``lacks_before`` lacks of memory."""
        with without_others(WATCH.paused) as had_others:
            free_device_memory()
            if not had_others:
                return self._in_smaller_parts(clips, lack)
            is_rare = self._num_since_lack >= RARE
            # If another batch has lacked memory since this one began, both lacks have the same cause.
            is_new = lacks_before == self._num_lacks
            if is_new:
                self._num_lacks, self._num_since_lack = self._num_lacks + 1, 0
            # The batch may fit now that the batches of other threads have left the memory.
            if is_rare or not is_new or len(clips) == 1:
                return self._at_once(clips)
            return self._in_smaller_parts(clips, lack)

    def _in_smaller_parts(self, clips: Sequence[DecodedClip], lack: str) -> list[Attempt[Result]]:
        may_use_smaller_steps = self._num_smaller_steps < SMALLER_STEPS_FIRST or len(clips) == 1
        if may_use_smaller_steps and self._tool.use_less_memory():
            self._num_smaller_steps += 1
            attempts = self._at_once(clips)
            if len(clips) == 1 and self._largest_before and attempts[0].failure is None:
                # The steps were too large, not the clips too many.
                self.largest, self._largest_before = self._largest_before, None
            return attempts
        if len(clips) > 1:
            self._largest_before = self._largest_before or len(clips)
            # run() uses this limit for the present clips and for all later batches.
            self.largest = len(clips) // 2
            return self.run(clips)
        reason = f"this clip alone does not fit into memory ({lack})"
        # If another cause is possible, a batch whose clips all fail ends the run.
        doubtful = not (self._has_device and is_certainly_memory(lack))
        return [Attempt(clips[0].clip_id, failure=(self._stage, reason), is_unforeseen=doubtful)]


def attempt(
    work: Callable[[Sequence[DecodedClip]], Sequence[Result]], clips: Sequence[DecodedClip], stage: str
) -> list[Attempt[Result]]:
    """Apply ``work`` to all clips at once; if that fails, to one clip at a time, so that only faulty clips are
    lost.
    """
    tool: Tool[Result] = _Plain(work)
    return Batches(tool, stage).run(clips)


class _Plain(Generic[Result]):
    """A function as a :class:`Tool`."""

    feature_dim: int | None = None

    def __init__(self, work: Callable[[Sequence[DecodedClip]], Sequence[Result]]) -> None:
        self._work = work

    def __call__(self, clips: Sequence[DecodedClip]) -> Sequence[Result]:
        return self._work(clips)

    def use_less_memory(self) -> bool:
        return False


def outcome(
    stage: str, status: str, reason: str | None = None, seconds: float = 0.0, media_s: float = 0.0
) -> dict[str, Any]:
    """Build one entry of the ``outcomes`` column."""
    return {
        "stage": stage,
        "status": status,
        "reason": reason,
        "seconds": seconds,
        "media_s": media_s,
        "actor": own_name(),
    }


def explain(stage: str, error: Exception) -> tuple[str, str]:
    """Return (stage, reason) of an error."""
    if isinstance(error, ClipError):
        return error.stage, error.reason
    return stage, f"{type(error).__name__}: {error}"
