"""What the report prints, line by line, against scipy on the files of the runs: of a made-up workspace with several
runs, and, among the slow tests, of a rendered demo that went through extraction and training."""

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from fabricated_workspace import write_full
from scipy import stats

from emi_ray.reporting import build_report
from emi_ray.schema import EMOTIONS
from emi_ray.workspace import Workspace


class Report:
    """A report and the predictions that it is of."""

    def __init__(self, workspace: Workspace) -> None:
        build_report(workspace)
        self.workspace = workspace
        self.tree = ElementTree.fromstring(workspace.read_text("report/index.html"))

    @property
    def headline(self) -> str:
        found = self.tree.find(".//p[@class='headline']")
        assert found is not None
        return "".join(found.itertext()).replace("−", "-")

    def tables(self) -> dict[str, list[list[str]]]:
        """Rows of every table, by the heading above it; of several under one heading, the first."""
        found: dict[str, list[list[str]]] = {}
        for parent in self.tree.iter():
            heading = ""
            for child in parent:
                if child.tag in ("h2", "h3"):
                    heading = "".join(child.itertext())
                if child.tag == "div" and (table := child.find("table")) is not None:
                    rows = [
                        ["".join(cell.itertext()).replace("−", "-") for cell in row]
                        for row in table.iter("tr")
                    ]
                    found.setdefault(heading, rows)
        return found

    def predictions(self, run: str) -> pd.DataFrame:
        return self.workspace.read_table(f"runs/{run}/predictions.parquet").to_pandas()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return Report(write_full(Path(tmp_path_factory.mktemp("report"))))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Report:
    root = tmp_path_factory.mktemp("demo")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-m", "emi_ray", "demo", "-w", str(root), "--clips", "96"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return Report(Workspace(str(root)))


def correlations(table: pd.DataFrame) -> np.ndarray:
    return np.array([stats.pearsonr(table[name], table[f"true_{name}"]).statistic for name in EMOTIONS])


def numbers(text: str) -> list[float]:
    return [float(each) for each in re.findall(r"[-+]?\d+\.\d+", text)]


def test_headline_is_what_scipy_says(report: Report) -> None:
    table = report.predictions("f2/42")
    r = correlations(table)
    mean, low, high, gain, single, gain_low, gain_high = (
        each for each in numbers(report.headline) if each != 95.0
    )
    assert mean == pytest.approx(r.mean(), abs=5.1e-5)
    pairs = [table[name] for name in EMOTIONS] + [table[f"true_{name}"] for name in EMOTIONS]

    def mean_r(*columns: np.ndarray) -> float:
        return float(np.mean([np.corrcoef(columns[i], columns[i + 6])[0, 1] for i in range(6)]))

    theirs = stats.bootstrap(
        pairs, mean_r, paired=True, vectorized=False, n_resamples=1500, method="percentile", rng=0
    ).confidence_interval
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.012)
    said = report.workspace.read_table("runs/f2/42/stages.parquet").to_pandas()
    own = {}
    for stage, part in said.groupby("stage"):
        joined = part.merge(table[["clip_id", *(f"true_{name}" for name in EMOTIONS)]], on="clip_id")
        own[stage] = correlations(joined).mean()
    best = max(own, key=own.__getitem__)
    assert f"({best}: " in report.headline
    assert single == pytest.approx(own[best], abs=5.1e-5)
    assert gain == pytest.approx(r.mean() - own[best], abs=5.1e-4)
    assert gain_low < gain < gain_high


def test_table_of_scores_is_what_scipy_says(report: Report) -> None:
    rows = {(row[0], row[1]): row for row in report.tables()["Scores"][1:]}
    for run in ("f2/42", "f2/43", "f1/42", "audio/42"):
        table = report.predictions(run)
        row = rows[tuple(run.split("/"))]  # type: ignore[index]
        r = correlations(table)
        assert float(row[2]) == pytest.approx(r.mean(), abs=5.1e-5)
        assert [float(cell) for cell in row[3:9]] == pytest.approx(r.tolist(), abs=5.1e-4)
    table = report.predictions("f2/42")
    ccc, mae = [], []
    for name in EMOTIONS:
        x, y = table[name], table[f"true_{name}"]
        ccc.append(
            2 * np.cov(x, y, ddof=0)[0, 1] / (x.var(ddof=0) + y.var(ddof=0) + (x.mean() - y.mean()) ** 2)
        )
        mae.append(np.abs(x - y).mean())
    assert float(rows["f2", "42"][9]) == pytest.approx(np.mean(ccc), abs=5.1e-4)
    assert float(rows["f2", "42"][10]) == pytest.approx(np.mean(mae), abs=5.1e-4)
    assert rows["f2", "42"][11] == str(len(table))


def test_seeds_and_comparison_are_what_scipy_says(report: Report) -> None:
    f2 = [correlations(report.predictions(f"f2/{seed}")) for seed in (42, 43)]
    f1 = correlations(report.predictions("f1/42"))
    (row,) = [row for row in report.tables()["Over seeds"] if row[0] == "f2"]
    means = [r.mean() for r in f2]
    assert numbers(" ".join(row[2:])) == pytest.approx([np.mean(means), np.std(means, ddof=1)], abs=5.1e-5)
    same = {row[0]: row for row in report.tables()["Pearson r on the same clips, mean over seeds"][1:]}
    assert [float(cell) for cell in same["f2"][2:8]] == pytest.approx(
        np.mean(f2, axis=0).tolist(), abs=5.1e-4
    )
    assert float(same["f2"][8]) == pytest.approx(np.mean(means), abs=5.1e-4)
    between = {row[0]: row for row in report.tables()["Differences, with 95 % intervals"][1:]}
    pair, sign = ("f2 - f1", 1) if "f2 - f1" in between else ("f1 - f2", -1)
    value, low, high, *_ = numbers(between[pair][7])
    assert value == pytest.approx(sign * (np.mean(means) - f1.mean()), abs=5.1e-4)
    assert low < value < high


def test_corpus_is_what_scipy_says(report: Report) -> None:
    clips = report.workspace.clips().to_pandas()
    train, val = (clips[clips["split"] == split] for split in ("train", "val"))
    headings, *rows = report.tables()["Labels"]
    for name in ("Joy", "Admiration"):
        values = dict(zip(headings, next(row for row in rows if row[0] == name), strict=True))
        assert float(values["mean, train"]) == pytest.approx(train[name].mean(), abs=5.1e-5)
        assert values["at the lowest, val"] == f"{(val[name] == 0).mean():.1%}".replace("%", " %")
        expected = stats.ks_2samp(train[name], val[name], method="asymp")
        assert float(values["KS"]) == pytest.approx(expected.statistic, abs=5.1e-4)
        assert float(values["p"]) == pytest.approx(expected.pvalue, abs=5.1e-4)
    headings, *rows = report.tables()["Correlation of the labels"]
    both = pd.concat([train, val])
    joy = next(row for row in rows if row[0] == "Joy")
    expected = stats.pearsonr(both["Joy"], both["Excitement"]).statistic
    assert float(joy[headings.index("Excitement")]) == pytest.approx(expected, abs=5.1e-3)


def test_calibration_is_what_scipy_says(report: Report) -> None:
    rows = {row[0]: row for row in report.tables()["Calibration"][1:]}
    table = report.predictions("f2/42")
    for name in EMOTIONS:
        said, true = table[name], table[f"true_{name}"]
        above = true > 0
        u = stats.mannwhitneyu(said[above], said[~above]).statistic / (above.sum() * (~above).sum())
        expected = [stats.linregress(said, true).slope, (said - true).mean(), above.mean(), u]
        assert [float(cell) for cell in rows[name][1:]] == pytest.approx(expected, abs=5.1e-3)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_twenty_two_lines_of_a_demo_are_what_scipy_says(demo: Report) -> None:
    """One line of headline, one of scores, eight of the corpus, six of calibration, six of differences by label."""
    table = demo.predictions("f2/42")
    table = table[(table["split"] == "val") & table["scored"]].reset_index(drop=True)
    r = correlations(table)
    mean, low, high, gain, single, *_ = (each for each in numbers(demo.headline) if each != 95.0)
    assert mean == pytest.approx(r.mean(), abs=5.1e-5)
    assert (low, high) == pytest.approx(interval_over_people(demo, table), abs=0.02)
    assert gain == pytest.approx(r.mean() - single, abs=6e-4)

    (row,) = (row for row in demo.tables()["Scores"][1:] if row[:2] == ["f2", "42"])
    mae = np.mean([np.abs(table[name] - table[f"true_{name}"]).mean() for name in EMOTIONS])
    assert float(row[2]) == pytest.approx(r.mean(), abs=5.1e-5)
    assert [float(cell) for cell in row[3:9]] == pytest.approx(r.tolist(), abs=5.1e-4)
    assert float(row[10]) == pytest.approx(mae, abs=5.1e-4)
    assert row[11] == str(len(table))

    clips = demo.workspace.clips().to_pandas()
    train, val = (clips[clips["split"] == split] for split in ("train", "val"))
    headings, *rows = demo.tables()["Labels"]
    lines = {row[0]: dict(zip(headings, row, strict=True)) for row in rows}
    tables = demo.tables()["Calibration"][1:]
    for name, (label, *calibration) in zip(EMOTIONS, tables, strict=True):
        expected = stats.ks_2samp(train[name], val[name], method="asymp")
        assert float(lines[name]["mean, train"]) == pytest.approx(train[name].mean(), abs=5.1e-5)
        assert float(lines[name]["KS"]) == pytest.approx(expected.statistic, abs=5.1e-4)
        assert lines[name]["at the lowest, val"] == f"{(val[name] == 0).mean():.1%}".replace("%", " %")
        said, true, above = table[name], table[f"true_{name}"], table[f"true_{name}"] > 0
        u = stats.mannwhitneyu(said[above], said[~above]).statistic / (above.sum() * (~above).sum())
        slope = stats.linregress(said, true).slope
        assert label == name
        expected = [slope, (said - true).mean(), above.mean(), u]
        assert [float(cell) for cell in calibration] == pytest.approx(expected, abs=5.1e-3)

    headings, *rows = demo.tables()["Correlation of the labels"]
    both = pd.concat([train, val])
    for row in rows:
        for other, cell in zip(headings[1:], row[1:], strict=True):
            if other in EMOTIONS and other != row[0] and cell.strip("–"):
                expected = stats.pearsonr(both[row[0]], both[other]).statistic
                assert float(cell) == pytest.approx(expected, abs=5.1e-3)


def interval_over_people(demo: Report, table: pd.DataFrame) -> tuple[float, float]:
    """Percentile interval of the mean r over people drawn again, expanded as Hesterberg (2015) does."""
    clips = demo.workspace.clips().to_pandas().set_index("clip_id")
    group = clips.loc[table["clip_id"], "group"]
    person = group.fillna(group.index.to_series()).to_numpy()  # who names none is one of its own
    rows = [np.flatnonzero(person == name) for name in np.unique(person)]
    said, true = (table[[f"{prefix}{name}" for name in EMOTIONS]].to_numpy() for prefix in ("", "true_"))

    def mean_r(drawn: np.ndarray) -> float:
        chosen = np.concatenate([rows[int(index)] for index in drawn])
        return float(np.mean([np.corrcoef(said[chosen, i], true[chosen, i])[0, 1] for i in range(6)]))

    random = np.random.default_rng(0)
    drawn = [mean_r(random.integers(len(rows), size=len(rows))) for _ in range(2000)]
    wider = np.sqrt(len(rows) / (len(rows) - 1)) * stats.t.ppf(0.975, len(rows) - 1)
    low, high = np.nanquantile(drawn, stats.norm.cdf([-wider, wider]))
    return float(low), float(high)
