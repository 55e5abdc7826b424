"""How a stage applies its tool: in its own process as a rule, in a child process where a clip may end it."""

import sys
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from emi_ray.extraction.actors import Life, own_life
from emi_ray.extraction.batches import Attempt, Batches, DeviceLostError, Tool
from emi_ray.extraction.careful import CarefulProcess
from emi_ray.extraction.vigil import BUILD_LIMIT_S, Limits, Note, Watch, end_process
from emi_ray.media.clip import DecodedClip

Result = TypeVar("Result")

WATCH = Watch()
"""Of this process, whatever number of stages it holds."""


class Runner(Generic[Result]):
    """Applies one tool to clips, and finds the clip that ends processes.

    The clips that this actor had in hand when it last died are *suspects*: each goes alone through a child process
    (``careful.py``). So does, as a whole, the first batch after a death that left no note on this node. All other
    batches run here.

    Args:
        build: makes the tool; picklable.
        largest: clips that are given to the tool at once.
        life: which actor this is.
        careful: run every batch in the child process.
    """

    def __init__(
        self,
        build: Callable[[], Tool[Result]],
        stage: str,
        limits: Limits,
        largest: int | None = None,
        careful: bool = False,
        life: Life | None = None,
    ) -> None:
        life = life or own_life()
        self._largest = largest
        self._build = build
        self._stage = stage
        self._limits = limits
        self._note = Note(life.owner, stage)
        self._suspects = self._note.left_behind()
        self._always_careful = careful
        self._is_wary = life.was_restarted and not self._suspects
        self._child: CarefulProcess[Result] = CarefulProcess(build, stage, limits)
        self._batches: Batches[Result] | None = None
        self._feature_dim: int | None = None

    @property
    def feature_dim(self) -> int:
        """Size of one step's features; builds the tool where it is not built yet."""
        dim = self._feature_dim if self._feature_dim is not None else self._child.feature_dim
        if dim is None:
            self._here()
            dim = self._feature_dim
        assert dim is not None, "asked of extractors only"
        return dim

    def run(self, clips: Sequence[DecodedClip]) -> list[Attempt[Result]]:
        """An attempt for each clip, in order.

        Raises:
            EmiRayError: the tool cannot be built, or its device is lost whatever is tried.
        """
        if not clips:
            return []
        if self._always_careful:
            return self._child.run(clips, singly=False)
        if self._is_wary:
            self._is_wary = False
            return self._carefully(clips, singly=False)
        suspects = [clip for clip in clips if clip.clip_id in self._suspects]
        others = [clip for clip in clips if clip.clip_id not in self._suspects]
        attempts = self._carefully(suspects, singly=True) if suspects else []
        self._suspects -= {clip.clip_id for clip in suspects}
        if others:
            attempts += self._run_here(others)
        found = {each.clip_id: each for each in attempts}
        return [found[clip.clip_id] for clip in clips]

    def _carefully(self, clips: Sequence[DecodedClip], singly: bool) -> list[Attempt[Result]]:
        try:
            return self._child.run(clips, singly)
        finally:
            self._child.close()

    def _run_here(self, clips: Sequence[DecodedClip]) -> list[Attempt[Result]]:
        batches = self._here()
        with self._note.holding(clip.clip_id for clip in clips), WATCH.over(self._limits):
            try:
                return batches.run(clips)
            except DeviceLostError:
                end_process()
                raise

    def _here(self) -> Batches[Result]:
        if self._batches is None:
            with WATCH.over(Limits(BUILD_LIMIT_S, sys.maxsize)):
                tool = self._build()
            self._feature_dim = tool.feature_dim
            self._batches = Batches(tool, self._stage, self._largest)
        return self._batches
