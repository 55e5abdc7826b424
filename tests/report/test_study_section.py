from pathlib import Path
from xml.etree import ElementTree

import pytest
from fabricated_workspace import write_corpus

from emi_ray.reporting import build_report
from emi_ray.reporting.importances import importances_of
from emi_ray.reporting.study_section import build_study_sections
from emi_ray.results.studies import read_study
from emi_ray.workspace import Workspace

DROPOUT = '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.1, "high": 0.7, "log": false}}'
RATE = '{"name": "FloatDistribution", "attributes": {"step": null, "low": 1e-05, "high": 0.01, "log": true}}'
HOSTILE = "<b>gru</b>"
KIND = '{"name": "CategoricalDistribution", "attributes": {"choices": [null, "<b>gru</b>"]}}'


def trial(number: int, state: str, values: list[float] | None, **parameters: object) -> dict:
    return {
        "number": number,
        "state": state,
        "values": values,
        "parameters": parameters,
        "steps": {},
        "seconds": 1.0,
        "is_start": number == 0,
        "notes": {},
    }


def write_study(
    workspace: Workspace, name: str = "f2-fusion", minimise: str | None = None, judged: bool = True
) -> None:
    trials = []
    for number in range(12):
        dropout, kind = 0.1 + 0.05 * number, HOSTILE if number % 2 else None
        values = [0.5 - (dropout - 0.3) ** 2 + 0.001 * (number % 2), float(100 + number)]
        parameters = {
            "fusion.dropout": dropout,
            "fusion.lr": 10 ** (-2 - number / 4),
            "encoders.audio.recurrent": kind,
        }
        trials.append(trial(number, "complete", values[: 1 + bool(minimise)], **parameters))
    trials.append(trial(12, "pruned", None if minimise else [0.2], **{"fusion.dropout": 0.7}))
    trials.append(trial(13, "failed", None, **{"fusion.dropout": 0.6}))
    record = {
        "study": name,
        "recipe": "f2",
        "metric": "val_pearson",
        "minimise": minimise,
        "directions": ["maximize", "minimize"][: 1 + bool(minimise)],
        "distributions": {"fusion.dropout": DROPOUT, "fusion.lr": RATE, "encoders.audio.recurrent": KIND},
        "start": {"fusion.dropout": 0.1, "fusion.lr": 0.01},
        "trials": trials,
    }
    workspace.write_json(f"studies/{name}/trials.json", record)
    if judged:
        workspace.write_json(f"studies/{name}/result.json", RESULT)


RESULT = {
    "metric": "val_pearson",
    "finished": 12,
    "seeds": [42, 43],
    "confirmed": [{"number": 4, "tuned": 0.5, "confirmed": 0.45}],
    "best_reported": {"recipe": "f2-fusion-best", "scores": [0.44, 0.42]},
    "start_reported": {"recipe": "f2-fusion-start", "scores": [0.41, 0.39]},
    "start": {"number": 0, "tuned": 0.39, "confirmed": 0.4},
    "parameters": {"fusion.dropout": 0.3},
    "start_parameters": {"fusion.dropout": 0.1},
}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(str(tmp_path))


def test_a_search_is_drawn_and_judged_in_the_page(tmp_path: Path) -> None:
    workspace = write_corpus(tmp_path, "demo")
    write_study(workspace)
    build_report(workspace)
    page = ElementTree.fromstring(workspace.read_text("report/index.html"))
    sections = [section.get("id") for section in page.iter("section")]
    assert sections.index("studies") == sections.index("systems") + 1
    studies = next(section for section in page.iter("section") if section.get("id") == "studies")
    text = " ".join("".join(studies.itertext()).split())
    assert "14 trials of f2: 12 complete, 1 pruned, 1 failed." in text
    assert "optimistic by +0.0700." in text
    assert "not selected by their score, is −0.0100" in text
    assert len(list(studies.iter("svg"))) == 3
    assert HOSTILE in text
    assert not list(studies.iter("b"))


def test_importance_finds_the_parameter_that_decides(workspace: Workspace) -> None:
    write_study(workspace)
    importances = importances_of(read_study(workspace, "f2-fusion"))
    assert sum(importances.values()) == pytest.approx(1)
    assert importances["encoders.audio.recurrent"] == min(importances.values())


def test_a_search_with_two_objectives_shows_its_front(workspace: Workspace) -> None:
    write_study(workspace, minimise="parameters", judged=False)
    (section,) = build_study_sections(workspace)
    assert section.front is not None
    assert "Pareto front" in section.front
    assert section.verdict == ""


def test_a_search_that_has_just_begun_is_told_without_plots(workspace: Workspace) -> None:
    write_study(workspace, judged=False)
    record = workspace.read_json("studies/f2-fusion/trials.json")
    record["trials"] = [trial(0, "running", None)]
    workspace.write_json("studies/f2-fusion/trials.json", record)
    (section,) = build_study_sections(workspace)
    assert section.history is None
    assert section.importances is None
    assert section.tables == []


def test_without_searches_there_is_no_section(tmp_path: Path) -> None:
    workspace = write_corpus(tmp_path, "demo")
    build_report(workspace)
    assert "studies" not in workspace.read_text("report/index.html")
