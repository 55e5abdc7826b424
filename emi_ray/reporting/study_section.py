"""The section on hyper-parameter searches: trials, importance of the settings, and the gain."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from emi_ray.reporting.formatting import UNKNOWN, format_score, signed
from emi_ray.reporting.importances import importances_of, ranges_of
from emi_ray.reporting.study_plots import front_plot, importance_bars, search_history, slices
from emi_ray.reporting.text_tables import TextTable
from emi_ray.results.studies import (
    ReportedScores,
    Study,
    StudyResult,
    StudyTrial,
    read_study,
    read_study_names,
    read_study_result,
)
from emi_ray.wording import plural
from emi_ray.workspace import Workspace


@dataclass(frozen=True)
class StudySection:
    """Content of the section for one search; a plot that cannot be drawn yet is None."""

    name: str
    summary: str
    tables: Sequence[TextTable]
    verdict: str
    history: str | None
    importances: str | None
    slices: str | None
    front: str | None


def build_study_sections(workspace: Workspace) -> list[StudySection]:
    """Build the sections of all searches of a workspace."""
    studies = [read_study(workspace, name) for name in read_study_names(workspace)]
    return [
        _section(study, read_study_result(workspace, study.name), f"study{index}")
        for index, study in enumerate(study for study in studies if study.trials)
    ]


def _section(study: Study, result: StudyResult | None, prefix: str) -> StudySection:
    importances = importances_of(study)
    complete = study.complete
    best = _best_trial(study, result)
    number = None if best is None else best.number
    tables = [_parameters(study, best, importances)] if best else []
    if result:
        tables.append(_reported(result))
    return StudySection(
        name=study.name,
        summary=_summary(study, best),
        tables=tables,
        verdict=_verdict(result) if result else "",
        history=search_history(f"{prefix}-history", study.trials, study.metric, study.maximise)
        if complete
        else None,
        importances=importance_bars(f"{prefix}-importance", importances) if importances else None,
        slices=slices(f"{prefix}-slices", study.trials, ranges_of(study), study.metric, number)
        if complete
        else None,
        front=_front(study, f"{prefix}-front"),
    )


def _best_trial(study: Study, result: StudyResult | None) -> StudyTrial | None:
    """Return the selected trial; before the selection, the trial with the best score."""
    if result:
        return next((trial for trial in study.trials if trial.number == result.best.number), None)
    sign = 1 if study.maximise else -1
    return max(study.complete, key=lambda trial: sign * trial.score, default=None)


def _summary(study: Study, best: StudyTrial | None) -> str:
    ends = Counter(trial.state for trial in study.trials)
    counts = [f"{ends[state]} {state}" for state in ("complete", "pruned", "failed", "lost") if ends[state]]
    found = (
        ""
        if best is None
        else f" The best trial has {study.metric} {format_score(best.score, 4)} on the tuning split"
    )
    of_start = next((trial.score for trial in study.complete if trial.is_start), None)
    compared = f"; the original settings reached {format_score(of_start, 4)}" if of_start is not None else ""
    return f"{plural(len(study.trials), 'trial')} of {study.recipe}: {', '.join(counts)}.{found}{compared}."


def _parameters(study: Study, best: StudyTrial, importances: dict[str, float]) -> TextTable:
    rows = [
        [
            name,
            _value(study.start, name),
            _value(best.parameters, name),
            format_score(importances.get(name), 2),
        ]
        for name in study.distributions
    ]
    note = (
        "A dash means that the setting does not apply. Importance: share of the score's variance that the setting "
        "explains (fANOVA)."
    )
    return TextTable("Settings", ["setting", f"original ({study.recipe})", "best", "importance"], rows, note)


def _reported(result: StudyResult) -> TextTable:
    def row(reported: ReportedScores) -> list[str]:
        return [reported.recipe, *(format_score(each, 4) for each in (*reported.scores, reported.mean))]

    seeds = [f"seed {seed}" for seed in result.seeds]
    rows = [row(result.start_reported), row(result.best_reported)]
    note = "Both recipes were trained on the official split, whose validation clips the search never saw."
    return TextTable(f"{result.metric} on the reporting split", ["recipe", *seeds, "mean"], rows, note)


def _verdict(result: StudyResult) -> str:
    """Describe the gain and the optimism of a search. Differences are positive if the first score is better."""
    text = (
        f"On the reporting split the tuned settings are better by {signed(result.gain)}. "
        f"The selected trial scored {format_score(result.best.tuned, 4)} in the search and "
        f"{format_score(result.best.confirmed, 4)} on average with other seeds: the search was optimistic "
        f"by {signed(result.optimism)}"
    )
    if result.optimism_of_start is None:
        return f"{text}."
    of_start = signed(result.optimism_of_start)
    return (
        f"{text}. The same difference for the original settings, which were not selected by their score, is "
        f"{of_start}: this part is due to the difference between the splits."
    )


def _front(study: Study, name: str) -> str | None:
    if study.minimise is None or not study.complete:
        return None
    sign = 1 if study.maximise else -1
    # A trial is on the front if no other one is at least as good in both objectives and better in one.
    front = [
        trial.number
        for trial in study.complete
        if not any(
            sign * other.score >= sign * trial.score
            and other.cost <= trial.cost
            and other.values != trial.values
            for other in study.complete
        )
    ]
    cost = {"parameters": "parameters of the model", "seconds": "seconds of training"}[study.minimise]
    return front_plot(name, study.trials, front, study.metric, cost, study.maximise)


def _value(values: Any, name: str) -> str:
    if name not in values:
        return UNKNOWN
    value = values[name]
    if value is None:
        return "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
