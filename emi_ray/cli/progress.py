"""Progress bars for the terminal; lines of text if the output is not one."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from emi_ray.cli.log import LOG
from emi_ray.cli.terminal import console

if TYPE_CHECKING:  # these import Ray, or much else
    from emi_ray.recipe.schema import Recipe

LOG_EVERY_S = 30.0
"""Interval in seconds between progress lines when the output is not a terminal, for example in a job's log."""

MAX_LINES = 12
"""Maximum number of trainings that are shown at once."""

_COLUMNS = (
    SpinnerColumn(),
    TextColumn("{task.description}", markup=False),
    BarColumn(),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
    TimeRemainingColumn(),
)


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[..., None]]:
    """Show a progress bar while the ``with`` block runs.

    Yields:
        A function to call as ``advance(done, total)``, or ``advance(done, total, title)`` to change the title.
    """
    with Progress(*_COLUMNS, console=console) as progress:
        task = progress.add_task(title, total=None)

        logged = time.monotonic()

        def advance(done: int, total: int, description: str = title) -> None:
            nonlocal logged
            progress.update(task, completed=done, total=total or None, description=description)
            if time.monotonic() - logged > LOG_EVERY_S:
                logged = time.monotonic()
                LOG.info("%s: %d of %d", description, done, total)
                if not console.is_terminal:
                    console.print(f"{description}: {done} of {total}")

        yield advance


class TrainingProgress:
    """Progress bars: one for each training in progress, and one for all runs together.

    If the output is not a terminal, for example in a job's log, the current state is printed every ``LOG_EVERY_S``
    seconds instead.
    """

    def __init__(self, progress: Progress, recipes: "Sequence[Recipe]", num_runs: int) -> None:
        self._progress = progress
        self._recipes = {recipe.name: recipe for recipe in recipes}
        self._whole = progress.add_task("Training", total=num_runs)
        self._lines: dict[str, TaskID] = {}
        self._latest: dict[str, str] = {}
        self._logged = time.monotonic()

    def plan(self, num_runs: int, at_once: int) -> None:
        """Print how many runs will be trained, and how many at the same time."""
        console.print(f"{num_runs} to train, {at_once} at once.", style="dim")

    def advance(self, job: str, scores: Mapping[str, Any]) -> None:
        """Show a finished epoch of ``job``; ``scores`` is its row of ``history.csv``."""
        recipe = self._recipes.get(job.partition("/")[0])
        stage = None if recipe is None else recipe.encoders.get(scores["stage"], recipe.fusion)
        total = recipe.training_of(stage).epochs if recipe and stage else None
        text = f"{job}: {scores['stage']}, epoch {scores['epoch']}, val r {scores['val_pearson']:.3f}"
        # A bar appears with the first epoch: before that, a training may still wait for a free core.
        if job not in self._lines:
            self._lines[job] = self._progress.add_task(text, total=total)
        self._progress.update(self._lines[job], completed=int(scores["epoch"]), total=total, description=text)
        self._latest[job] = text
        # Rich would cut off the lowest bars, and with them the newest.
        self._hide_oldest()
        if not console.is_terminal and time.monotonic() - self._logged > LOG_EVERY_S:
            self._logged = time.monotonic()
            for line in self._latest.values():
                console.print(line)

    def settle(self, run: str) -> None:
        """Count a run as ended, successfully or not, and remove its progress bars."""
        self._progress.advance(self._whole)
        # The job of a stage-1 encoder has the name of its run before the space.
        for job in [job for job in self._lines if job.partition(" ")[0] == run]:
            self._progress.remove_task(self._lines.pop(job))
            self._latest.pop(job, None)

    def _hide_oldest(self) -> None:
        """Remove the oldest bars beyond ``MAX_LINES``, so that all of them fit on a screen."""
        while len(self._lines) > MAX_LINES:
            job = next(iter(self._lines))
            self._progress.remove_task(self._lines.pop(job))


@contextmanager
def training_progress(recipes: "Sequence[Recipe]", num_runs: int) -> Iterator[TrainingProgress]:
    """Show progress bars of trainings while the ``with`` block runs."""
    with Progress(*_COLUMNS, console=console) as progress:
        yield TrainingProgress(progress, recipes, num_runs)
