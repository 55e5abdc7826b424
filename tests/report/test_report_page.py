import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest
from fabricated_workspace import HOSTILE_ID, add_features, add_run, write_corpus, write_full

from emi_ray.recipe.loading import load_recipe
from emi_ray.reporting import build_report, paper_scores
from emi_ray.schema import EMOTIONS, Label, clips_schema, snake
from emi_ray.store.failures import Failure, write_failures
from emi_ray.workspace import Workspace


@dataclass(frozen=True)
class Page:
    """A report that was built: its workspace, its HTML, and the same parsed."""

    workspace: Workspace
    html: str

    @property
    def tree(self) -> ElementTree.Element:
        return ElementTree.fromstring(self.html)

    def table(self, name: str) -> list[list[str]]:
        """The cells of the body of the table with that id."""
        body = self.tree.find(f".//table[@id='{name}']/tbody")
        assert body is not None
        return [["".join(cell.itertext()) for cell in row] for row in body]


@pytest.fixture(scope="module")
def full_page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    workspace = write_full(tmp_path_factory.mktemp("full"))
    build_report(workspace)
    return Page(workspace, workspace.read_text("report/index.html"))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are put together but not drawn, which takes most of the time."""
    for module in ("score_plots", "corpus_plots"):
        monkeypatch.setattr(f"emi_ray.reporting.{module}.inline_svg", lambda *_: "<svg></svg>")


def build(workspace: Workspace) -> str:
    build_report(workspace)
    html = workspace.read_text("report/index.html")
    ElementTree.fromstring(html)
    return html


def test_full_page_has_every_section_and_plot(full_page: Page) -> None:
    sections = [section.get("id") for section in full_page.tree.iter("section")]
    assert sections == ["scores", "comparison", "systems", "corpus", "features", "making"]
    plots = [svg.get("aria-label") for svg in full_page.tree.iter("svg")]
    assert len(plots) == 1 + 3 * 3 + 1 + 2
    assert "Nothing has been trained" not in full_page.html


def test_page_needs_nothing_from_elsewhere(full_page: Page) -> None:
    assert "http" not in full_page.html
    assert "<script" not in full_page.html
    links = [value for each in full_page.tree.iter() for key, value in each.items() if key in ("href", "src")]
    assert all(link.startswith(("#", "data:", "scores.json")) for link in links)


def test_ids_are_unique_and_references_lead_somewhere(full_page: Page) -> None:
    ids = [each.get("id") for each in full_page.tree.iter() if each.get("id")]
    assert len(ids) == len(set(ids))
    references = re.findall(r"url\(#([^)]+)\)|href=\"#([^\"]+)\"", full_page.html)
    assert {first or second for first, second in references} <= set(ids)


def test_untrusted_text_is_escaped(full_page: Page) -> None:
    rows = full_page.table("quarantine")
    assert any(HOSTILE_ID in row[4] for row in rows)
    assert any("<img src=x onerror=alert(1)> & � broken" in row[3] for row in rows)
    assert not list(full_page.tree.iter("img"))


def test_score_table_equals_the_metrics(full_page: Page) -> None:
    rows = full_page.table("score-table")
    assert len(rows) == 4
    for recipe, seed, *cells in rows:
        metrics = full_page.workspace.read_json(f"runs/{recipe}/{seed}/metrics.json")
        labels = [metrics[f"val_pearson_{snake(name)}"] for name in EMOTIONS]
        expected = [metrics["val_pearson"], *labels, metrics["val_ccc"], metrics["val_mae"]]
        shown = [float(cell.replace("−", "-")) for cell in cells[:-2]]
        assert shown == pytest.approx(expected, abs=5.1e-4)
        assert shown[0] == pytest.approx(metrics["val_pearson"], abs=5.1e-5)
        assert int(cells[-2]) == metrics["num_val"]
        assert cells[-1] == "on other features"


def test_runs_stand_in_the_order_of_their_scores(full_page: Page) -> None:
    scores = [float(row[2]) for row in full_page.table("score-table")]
    assert scores == sorted(scores, reverse=True)


def test_failures_that_differ_in_numbers_are_one_row(full_page: Page) -> None:
    row = next(row for row in full_page.table("quarantine") if row[1] == "faces")
    assert row == ["vision", "faces", "5", "no face in any of 5 frames", "00005, 00006, 00009"]


def test_scores_json_holds_all_metrics_labels_and_corpus(full_page: Page) -> None:
    scores = full_page.workspace.read_json("report/scores.json")
    assert (scores["corpus"], scores["labels"]) == ("demo", list(EMOTIONS))
    for run in scores["runs"]:
        metrics = full_page.workspace.read_json(f"runs/{run['recipe']}/{run['seed']}/metrics.json")
        assert {key: run[key] for key in metrics} == metrics


@pytest.mark.usefixtures("undrawn")
def test_paper_stands_beside_its_own_features_and_clips_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = write_corpus(tmp_path, "vidmimic2")
    add_run(workspace, "text", 42, ["text"])
    recipe = load_recipe("text")
    for weights, reported in ((None, 0.395), ("/tmp/stand-in", None)):
        made_by = {"extractor": "gte-base", "settings": {"weights": weights} if weights else {}}
        described = {"recipe": recipe.model_dump(mode="json"), "extractors": {"text": made_by}}
        workspace.write_json("runs/text/42/model.json", described)
        html = build(workspace)
        assert "on other " in html  # 180 and 80 clips are not the paper's
        assert workspace.read_json("report/scores.json")["runs"][0]["paper_val_pearson"] is None
        monkeypatch.setattr(paper_scores, "PAPER_CLIPS", {"train": 180, "val": 80})
        html = build(workspace)
        monkeypatch.setattr(paper_scores, "PAPER_CLIPS", {"train": 8072, "val": 4588})
        assert ("<td>0.3950</td>" in html) == (reported is not None)
        assert workspace.read_json("report/scores.json")["runs"][0]["paper_val_pearson"] == reported


@pytest.mark.usefixtures("undrawn")
def test_empty_folder_says_how_to_begin(tmp_path: Path) -> None:
    html = build(Workspace(str(tmp_path)))
    assert f"emi-ray init -w {tmp_path}" in html
    assert f"emi-ray train -w {tmp_path}" in html


@pytest.mark.usefixtures("undrawn")
def test_corpus_alone_is_described_and_extraction_proposed(tmp_path: Path) -> None:
    html = build(write_corpus(tmp_path))
    assert "A corpus of 300 clips; no features have been extracted yet." in html
    assert "Correlation of the labels" in html
    assert f"emi-ray extract -w {tmp_path}" in html


@pytest.mark.usefixtures("undrawn")
def test_features_without_runs_propose_training(tmp_path: Path) -> None:
    workspace = write_corpus(tmp_path)
    add_features(workspace)
    html = build(workspace)
    assert "with features of text, audio, vision, motion; no system has been trained yet." in html
    assert f"emi-ray train -w {tmp_path}" in html


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    "name", ["metrics.json", "history.csv", "predictions.parquet", "recipe.yaml", "versions.json"]
)
def test_file_that_a_run_lacks_is_named_with_its_command(tmp_path: Path, name: str) -> None:
    workspace = write_corpus(tmp_path)
    add_run(workspace, "text", 42, ["text"])
    workspace.delete(f"runs/text/42/{name}")
    html = build(workspace)
    assert f"Not there yet: {name}." in html
    assert f"emi-ray train -w {tmp_path} text --seed 42" in html


@pytest.mark.usefixtures("undrawn")
def test_scores_without_a_corpus_keep_their_labels(tmp_path: Path) -> None:
    workspace = Workspace(str(tmp_path))
    add_run(workspace, "text", 42, ["text"])
    assert "<th>empathic_pain</th>" in build(workspace)


@pytest.mark.usefixtures("undrawn")
def test_score_that_is_not_defined_is_a_dash_and_null(tmp_path: Path) -> None:
    workspace = write_corpus(tmp_path)
    add_run(workspace, "text", 42, ["text"])
    metrics = workspace.read_json("runs/text/42/metrics.json")
    workspace.write_json("runs/text/42/metrics.json", metrics | {"val_pearson_joy": math.nan})
    page = Page(workspace, build(workspace))
    assert page.table("score-table")[0][8] == "–"
    assert workspace.read_json("report/scores.json")["runs"][0]["val_pearson_joy"] is None


@pytest.mark.usefixtures("undrawn")
def test_extractor_that_failed_for_every_clip_is_listed(tmp_path: Path) -> None:
    workspace = write_corpus(tmp_path)
    write_failures(workspace, [Failure("00001", "audio", "deadbeef0000", "worker", "out of memory")])
    html = build(workspace)
    assert "deadbeef0000" in html
    assert "out of memory" in html


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("names", [["Valence"], [f"target {index}" for index in range(20)]])
def test_any_number_of_labels_is_drawn(tmp_path: Path, names: Sequence[str]) -> None:
    workspace = Workspace(str(tmp_path))
    write_labels(workspace, names)
    html = build(workspace)
    assert "Distribution of the labels" in html
    assert ("Correlation of the labels" in html) is (len(names) > 1)


@pytest.mark.usefixtures("undrawn")
def test_corpus_without_labels_is_described(tmp_path: Path) -> None:
    workspace = Workspace(str(tmp_path))
    write_labels(workspace, [])
    assert "Distribution of the labels" not in build(workspace)


@pytest.mark.usefixtures("undrawn")
def test_features_themselves_are_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = write_corpus(tmp_path)
    add_features(workspace)
    read_table = Workspace.read_table

    def watched(self: Workspace, relative: str, columns: Sequence[str] | None = None) -> Any:
        if relative.startswith("features/"):
            assert columns is not None
            assert set(columns) <= {"clip_id", "num_steps"}
        return read_table(self, relative, columns)

    monkeypatch.setattr(Workspace, "read_table", watched)
    build(workspace)


def write_labels(workspace: Workspace, names: Sequence[str]) -> None:
    rng = np.random.default_rng(0)
    schema = clips_schema([Label(name, -1, 1) for name in names])
    columns: dict[str, Any] = {name: [None] * 40 for name in schema.names}
    columns |= {"clip_id": [f"c{index}" for index in range(40)], "split": ["train", "val"] * 20}
    columns |= {name: rng.uniform(-1, 1, 40) for name in names}
    workspace.write_table("clips.parquet", pa.table(columns, schema=schema))
