"""The section on hyper-parameter searches: what was tried, what mattered, what it was worth."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from emi_ray.reporting.numbers import UNKNOWN, plural, score, signed
from emi_ray.reporting.studies import Study, read_studies
from emi_ray.reporting.study_plots import front_plot, importance_bars, search_history, slices
from emi_ray.reporting.text_tables import TextTable
from emi_ray.workspace import Workspace


@dataclass(frozen=True)
class StudySection:
    """One search, drawn; a plot that cannot be drawn yet is None."""

    name: str
    summary: str
    tables: Sequence[TextTable]
    verdict: str
    history: str | None
    importances: str | None
    slices: str | None
    front: str | None


def build_study_sections(workspace: Workspace) -> list[StudySection]:
    """Every search of the workspace."""
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
        "" if best is None else f" The best reached {study.metric} {score(best.score, 4)} on the tuning split"
    )
    own = next((trial.score for trial in study.complete if trial.is_start), None)
    compared = f"; the recipe's own settings reached {score(own, 4)}" if own is not None else ""
    return f"{plural(len(study.trials), 'trial')} of {study.recipe}: {', '.join(counts)}.{found}{compared}."


def _parameters(study: Study, importances: dict[str, float]) -> TextTable:
    best = study.best
    assert best is not None
    rows = [
        [name, _value(study.start, name), _value(best.parameters, name), score(importances.get(name), 2)]
        for name in study.distributions
    ]
    note = "A setting without a value did not apply. Importance: share of the score's variance, by fANOVA."
    return TextTable(
        "Settings", ["setting", f"{study.recipe} as it stands", "best", "importance"], rows, note
    )


def _reported(result: dict[str, Any] | Any) -> TextTable:
    seeds = [f"seed {seed}" for seed in result["seeds"]]
    rows = []
    for key in ("start_reported", "best_reported"):
        scores = result[key]["scores"]
        rows.append([result[key]["recipe"], *(score(each, 4) for each in scores), score(fmean(scores), 4)])
    note = "Trained anew on the official split, whose validation clips the search never saw."
    return TextTable(f"{result['metric']} on the reporting split", ["recipe", *seeds, "mean"], rows, note)


def _verdict(result: dict[str, Any] | Any, maximise: bool) -> str:
    """What the search was worth. Differences are positive where the first of two scores is the better one."""
    sign = 1 if maximise else -1
    best, start = result["confirmed"][0], result["start"]
    reported, start_reported = (fmean(result[key]["scores"]) for key in ("best_reported", "start_reported"))
    text = (
        f"On the reporting split the tuned settings are better by {signed(sign * (reported - start_reported))}. "
        f"The chosen trial had scored {score(best['tuned'], 4)} in the search and {score(best['confirmed'], 4)} as "
        f"the mean over further seeds: the search was optimistic by {signed(sign * (best['tuned'] - reported))}"
    )
    if start is None:
        return f"{text}."
    own = signed(sign * (start["tuned"] - start_reported))
    return f"{text}, of which {own} is the splits' own difference, as settings show that nobody chose."


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
