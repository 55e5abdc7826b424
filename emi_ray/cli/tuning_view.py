"""Terminal output of a hyper-parameter search: live progress, then the result."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.table import Table

from emi_ray.cli.progress import LOG_EVERY_S
from emi_ray.cli.tables import compact_table
from emi_ray.cli.terminal import console
from emi_ray.results.studies import BEST, StudyResult, study_folder
from emi_ray.tuning.study import Counts, TuningStudy
from emi_ray.tuning.tune import TuneOptions
from emi_ray.wording import plural
from emi_ray.workspace import Workspace

_REDRAW_EVERY_S = 0.2


@dataclass
class StudyView:
    """Live progress of a study: one line that is redrawn, and a permanent line for each new best trial."""

    progress: Progress
    task: TaskID
    options: TuneOptions
    began: float = field(default_factory=time.monotonic)
    drawn: float = 0.0
    logged: float = 0.0
    finished_before: int | None = None
    best: int | None = None

    def update(self, study: TuningStudy) -> None:
        """Redraw the progress line from the study's current state, at most five times per second."""
        counts = study.counts
        if self.finished_before is None:
            self.finished_before = counts.finished
            if counts.finished:
                console.print(
                    f"Resuming study {study.name}: {plural(counts.finished, 'trial', 'are')} already finished."
                )
        is_last = counts.running == 0
        if time.monotonic() - self.drawn < _REDRAW_EVERY_S and not is_last:
            return
        self.drawn = time.monotonic()
        best = study.best
        if best is not None and best.number != self.best:
            self.best = best.number
            console.print(f"trial {best.number}: {self.options.metric} {best.values[0]:.4f}, the best so far")
        score = "no score yet" if best is None else f"best {best.values[0]:.4f} (trial {best.number})"
        text = f"{score} · {_spell(counts)}{self._time_left(counts)}"
        self.progress.update(self.task, completed=counts.finished, description=text)
        if not console.is_terminal and self.drawn - self.logged > LOG_EVERY_S:
            self.logged = self.drawn
            console.print(f"{counts.finished}/{self.options.trials} {text}")

    def note(self, text: str) -> None:
        """Print a permanent line, and show it as the current activity of the progress line."""
        console.print(text)
        self.progress.update(self.task, description=text)

    def _time_left(self, counts: Counts) -> str:
        # The pace is that of this command, so trials of earlier ones do not count.
        done = counts.finished - (self.finished_before or 0)
        left = self.options.trials - counts.finished
        if not done or left <= 0:
            return ""
        seconds = (time.monotonic() - self.began) / done * left
        return f" · about {seconds / 60:.0f} min left" if seconds >= 90 else f" · about {seconds:.0f} s left"


@contextmanager
def study_progress(options: TuneOptions) -> Iterator[StudyView]:
    """Show the progress of a study while the ``with`` block runs.

    Args:
        options: settings of the search; ``trials`` is the total of the progress bar.
    """
    columns = (
        SpinnerColumn(),
        BarColumn(20),
        MofNCompleteColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("starting", total=options.trials)
        yield StudyView(progress, task, options)


def show_study_result(outcome: StudyResult, study: str, workspace: Workspace) -> None:
    """Print the best recipe next to the baseline, and how optimistic the tuning score was."""
    console.print(_reporting_table(outcome))
    console.print(_parameter_table(outcome))
    if outcome.front:
        console.print(_front_table(outcome))
    best = outcome.best
    console.print(
        f"Trial {best.number} scored {best.tuned:.4f} during the search, {best.confirmed:.4f} with other seeds and "
        f"{outcome.best_reported.mean:.4f} on the official split. Optimism of the search: {outcome.optimism:+.4f}.",
    )
    if outcome.optimism_of_start is not None:
        console.print(
            f"The same difference for the original settings is {outcome.optimism_of_start:+.4f}. They were not "
            "selected by their score, so this part is the difference between the two splits."
        )
    if outcome.best == outcome.start:
        console.print(
            "No trial was better than the original settings beyond the noise between seeds. The original settings "
            "are kept: the start and the best trial are the same run."
        )
    console.print(f"Recipe: {workspace.path(f'{study_folder(study)}/{BEST}')}")
    console.print(f"Plots: emi-ray report -w {workspace.quoted}")


def _reporting_table(outcome: StudyResult) -> Table:
    table = compact_table(f"{outcome.metric} on the official split")
    table.add_column("recipe")
    for seed in outcome.seeds:
        table.add_column(f"seed {seed}", justify="right")
    table.add_column("mean", justify="right")
    for reported in (outcome.start_reported, outcome.best_reported):
        table.add_row(reported.recipe, *(f"{each:.4f}" for each in reported.scores), f"{reported.mean:.4f}")
    table.add_row("gain", *("" for _ in outcome.seeds), f"{outcome.gain:+.4f}")
    return table


def _parameter_table(outcome: StudyResult) -> Table:
    table = compact_table("Chosen settings")
    for heading in ("setting", "start", "best"):
        table.add_column(heading)
    for name in dict.fromkeys([*outcome.start_parameters, *outcome.parameters]):
        own, best = outcome.start_parameters.get(name, "–"), outcome.parameters.get(name, "–")
        table.add_row(name, _short(own), _short(best))
    return table


def _front_table(outcome: StudyResult) -> Table:
    table = compact_table("Pareto front")
    for heading in ("trial", outcome.metric, "cost"):
        table.add_column(heading)
    for point in outcome.front:
        table.add_row(str(point.number), f"{point.values[0]:.4f}", f"{point.values[1]:g}")
    return table


def _spell(counts: Counts) -> str:
    parts = [
        f"{getattr(counts, name)} {name}"
        for name in ("complete", "pruned", "failed", "lost", "running")
        if name in ("complete", "pruned", "failed") or getattr(counts, name)
    ]
    return ", ".join(parts)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
