"""Apply the tool of a stage: normally in the process of the stage, in a child process if a clip may kill it."""

import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, TypeVar

from emi_ray.errors import EmiRayError
from emi_ray.extraction.actors import Life, own_life
from emi_ray.extraction.batches import Attempt, Batches, DeviceLostError, Tool
from emi_ray.extraction.device_errors import (
    build_within_share,
    free_device_memory,
    is_device_lost,
    is_out_of_memory,
)
from emi_ray.extraction.isolation import IsolatedProcess
from emi_ray.extraction.watchdog import BUILD_LIMIT_S, WATCH, Limits, Note, end_process
from emi_ray.extractors.turns import without_others
from emi_ray.media.clip import DecodedClip

Result = TypeVar("Result")

_BUILDING = threading.Lock()
"""Held while a tool is built. While transformers loads a model, the default dtype of the whole process is that of
the model, and a second model that is loaded meanwhile would get that dtype in some of its tensors."""


class Runner(Generic[Result]):
    """Apply one tool to clips, and identify the clip that kills its process.

    The clips that this actor was processing when it last died are *suspects*: each of them is processed alone in a
    child process (``isolation.py``), and those that fail there remain suspects. Ray repeats whole blocks of several
    batches: if a clip of each of two batches kills the process, the first must be known when the second is found.
    If a restarted actor finds no note about its last batch on this node, its first batch runs in the child process as
    a whole. All other batches run in this process.

    Args:
        build: creates the tool; picklable.
        stage: name of the stage, for failures.
        limits: limits of one batch.
        largest: maximum number of clips that the tool gets at once.
        careful: run every batch in the child process.
        at_once: number of batches that this process has in progress, each in a thread.
        life: identity of this actor.
    """

    def __init__(
        self,
        build: Callable[[], Tool[Result]],
        stage: str,
        limits: Limits,
        largest: int | None = None,
        careful: bool = False,
        at_once: int = 1,
        life: Life | None = None,
    ) -> None:
        life = life or own_life()
        self._largest = largest
        build = partial(build_within_share, life.gpu_share, build)
        self._build = build
        self._life = life
        self._stage = stage
        self._limits = limits.among(at_once)
        self._note = Note(life.owner, stage)
        self._suspects = self._note.left_behind()
        self._note.suspect(self._suspects)
        self._always_careful = careful
        self._is_wary = life.was_restarted and not self._note.is_any_left()
        self._child: IsolatedProcess[Result] = IsolatedProcess(build, stage, limits)
        self._batches: Batches[Result] | None = None
        self._feature_dim: int | None = None

    @property
    def feature_dim(self) -> int:
        """Size of one step's features. Builds the tool if necessary."""
        dim = self._feature_dim if self._feature_dim is not None else self._child.feature_dim
        if dim is None:
            self._here()
            dim = self._feature_dim
        assert dim is not None, "only extractors have a feature size"
        return dim

    def run(self, clips: Sequence[DecodedClip]) -> list[Attempt[Result]]:
        """Return one attempt for each clip, in order.

        Raises:
            EmiRayError: the tool cannot be built, or its device is lost in every try.
        """
        if not clips:
            return []
        if self._always_careful:
            return self._child.run(clips, singly=False)
        if self._is_wary:
            self._is_wary = False
            return self._carefully(clips, singly=False)
        # Suspects are the clips that this actor was processing when its last process died.
        suspects = [clip for clip in clips if clip.clip_id in self._suspects]
        others = [clip for clip in clips if clip.clip_id not in self._suspects]
        attempts = self._carefully(suspects, singly=True) if suspects else []
        if others:
            attempts += self._run_here(others)
        found = {each.clip_id: each for each in attempts}
        return [found[clip.clip_id] for clip in clips]

    def _carefully(self, clips: Sequence[DecodedClip], singly: bool) -> list[Attempt[Result]]:
        # The child has a model of its own, for which there may be no memory beside the one of this process.
        with without_others(WATCH.paused):
            if self._batches is not None:
                self._largest, self._batches = self._batches.largest, None
            free_device_memory()
            try:
                attempts = self._child.run(clips, singly)
            finally:
                self._child.close()
        self._suspects -= {each.clip_id for each in attempts if each.failure is None}
        self._suspects |= {each.clip_id for each in attempts if each.failure is not None}
        self._note.suspect(self._suspects)
        return attempts

    def _run_here(self, clips: Sequence[DecodedClip]) -> list[Attempt[Result]]:
        batches = self._here()
        with self._note.holding(clip.clip_id for clip in clips), WATCH.over(self._limits):
            try:
                return batches.run(clips)
            # The note stays, so the process that Ray starts instead tries these clips in a child process.
            except DeviceLostError:
                end_process()
                raise

    def _here(self) -> Batches[Result]:
        """Return the tool, and create it if necessary. If memory runs out, it is created once more without others.

        Raises:
            EmiRayError: the model does not fit into memory.
        """
        lack = self._build_unless_there()
        if lack:
            # Without the lock of builders: a thread that waits for it may use a model, and must finish first.
            with without_others():
                free_device_memory()
                lack = self._build_unless_there()
        if lack or self._batches is None:
            place = (
                f"GPU {', '.join(self._life.gpus)} of node {self._life.node}" if self._life.gpus else "memory"
            )
            raise EmiRayError(
                f"its model does not fit into {place}, beside other models there ({lack}). "
                f"extraction.stages.{self._stage}.num_gpus=0 computes this stage on the CPU."
            )
        return self._batches

    def _build_unless_there(self) -> str:
        """Create the tool unless it exists. Returns the error if memory ran out, otherwise an empty text.

        If the device is lost, this process ends, so that a fresh one tries it.
        """
        with _BUILDING:
            if self._batches is not None:
                return ""
            try:
                with WATCH.over(Limits(BUILD_LIMIT_S, sys.maxsize)):
                    tool = self._build()
            except Exception as error:
                # The next process builds the tool in a child process, and ends the run if that fails too.
                if is_device_lost(error) and not self._life.was_restarted:
                    end_process()
                if not is_out_of_memory(error):
                    raise
                return str(error)
            self._feature_dim = tool.feature_dim
            self._batches = Batches(tool, self._stage, self._largest)
        return ""
