"""The section on hyper-parameter searches: trials, importance of the settings, and the gain."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from emi_ray.reporting.formatting import UNKNOWN, format_score, plural, signed
from emi_ray.reporting.studies import Study, read_studies
from emi_ray.reporting.study_plots import front_plot, importance_bars, search_history, slices
from emi_ray.reporting.text_tables import TextTable
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
    return [_section(study, f"study{index}") for index, study in enumerate(read_studies(workspace))]


def _section(study: Study, prefix: str) -> StudySection:
    importances = study.importances()
    complete = study.complete
    best = study.best
    number = None if best is None else best.number
    tables = [_parameters(study, importances)] if best else []
    if study.result:
        tables.append(_reported(study.result))
    return StudySection(
        name=study.name,
        summary=_summary(study),
        tables=tables,
        verdict=_verdict(study.result, study.maximise) if study.result else "",
        history=search_history(f"{prefix}-history", study.trials, study.metric, study.maximise)
        if complete
        else None,
        importances=importance_bars(f"{prefix}-importance", importances) if importances else None,
        slices=slices(f"{prefix}-slices", study.trials, study.ranges, study.metric, number)
        if complete
        else None,
        front=_front(study, f"{prefix}-front"),
    )


def _summary(study: Study) -> str:
    ends = Counter(trial.state for trial in study.trials)
    counts = [f"{ends[state]} {state}" for state in ("complete", "pruned", "failed", "lost") if ends[state]]
    best = study.best
    found = (
        ""
        if best is None
        else f" The best trial has {study.metric} {format_score(best.score, 4)} on the tuning split"
    )
    own = next((trial.score for trial in study.complete if trial.is_start), None)
    compared = f"; the original settings reached {format_score(own, 4)}" if own is not None else ""
    return f"{plural(len(study.trials), 'trial')} of {study.recipe}: {', '.join(counts)}.{found}{compared}."


def _parameters(study: Study, importances: dict[str, float]) -> TextTable:
    best = study.best
    assert best is not None
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


def _reported(result: dict[str, Any] | Any) -> TextTable:
    seeds = [f"seed {seed}" for seed in result["seeds"]]
    rows = []
    for key in ("start_reported", "best_reported"):
        scores = result[key]["scores"]
        rows.append(
            [
                result[key]["recipe"],
                *(format_score(each, 4) for each in scores),
                format_score(fmean(scores), 4),
            ]
        )
    note = "Both recipes were trained on the official split, whose validation clips the search never saw."
    return TextTable(f"{result['metric']} on the reporting split", ["recipe", *seeds, "mean"], rows, note)


def _verdict(result: dict[str, Any] | Any, maximise: bool) -> str:
    """Describe the gain and the optimism of a search. Differences are positive if the first score is better."""
    sign = 1 if maximise else -1
    best, start = result["confirmed"][0], result["start"]
    reported, start_reported = (fmean(result[key]["scores"]) for key in ("best_reported", "start_reported"))
    text = (
        f"On the reporting split the tuned settings are better by {signed(sign * (reported - start_reported))}. "
        f"The selected trial scored {format_score(best['tuned'], 4)} in the search and "
        f"{format_score(best['confirmed'], 4)} on average with other seeds: the search was optimistic "
        f"by {signed(sign * (best['tuned'] - reported))}"
    )
    if start is None:
        return f"{text}."
    own = signed(sign * (start["tuned"] - start_reported))
    return (
        f"{text}. The same difference for the original settings, which were not selected by their score, is {own}: "
        "this part is due to the difference between the splits."
    )


def _front(study: Study, name: str) -> str | None:
    if study.minimise is None or not study.complete:
        return None
    sign = 1 if study.maximise else -1
    front = [
        trial.number
        for trial in study.complete
        if not any(
            sign * other.values[0] >= sign * trial.values[0]
            and other.values[1] <= trial.values[1]
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
