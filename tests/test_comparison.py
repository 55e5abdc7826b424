"""Comparison of systems on predictions from files."""

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats
from typer.testing import CliRunner

from emi_ray.cli.app import app
from emi_ray.cli.compare import _write as write_differences
from emi_ray.comparison import compare, read_systems
from emi_ray.config import WorkspaceConfig
from emi_ray.errors import UserError
from emi_ray.schema import Label, clips_schema
from emi_ray.workspace import Workspace

LABELS = (Label("Joy"), Label("Excitement"))
NUM_CLIPS = 240


@pytest.fixture
def workspace(tmp_path):
    """240 clips of 12 people; good is better than bad, twin is as good as good."""
    workspace = Workspace(str(tmp_path))
    workspace.write_config(WorkspaceConfig())
    rng = np.random.default_rng(0)
    true = rng.normal(size=(NUM_CLIPS, 2))
    people = [f"p{index % 12}" for index in range(NUM_CLIPS)]
    ids = [f"{index:03d}" for index in range(NUM_CLIPS)]
    columns = {"clip_id": ids, "split": ["val"] * NUM_CLIPS, "group": people}
    columns |= {label.name: true[:, i] for i, label in enumerate(LABELS)}
    schema = clips_schema(LABELS)
    nothing = pa.nulls(NUM_CLIPS, pa.string())
    workspace.write_table(
        "clips.parquet", pa.table([columns.get(n, nothing) for n in schema.names], schema=schema)
    )
    for name, noise, seeds in (("good", 1.0, (1, 2, 3)), ("twin", 1.0, (1, 2, 3)), ("bad", 2.0, (1, 2))):
        for seed in seeds:
            said = true + rng.normal(0, noise, true.shape)
            table = {"clip_id": ids, "split": ["val"] * NUM_CLIPS}
            table |= {label.name: said[:, i] for i, label in enumerate(LABELS)}
            table |= {f"true_{label.name}": true[:, i] for i, label in enumerate(LABELS)}
            workspace.write_table(f"runs/{name}/{seed}/predictions.parquet", pa.table(table))
            workspace.write_json(f"runs/{name}/{seed}/metrics.json", {})
    return workspace


def rewrite(workspace, run, change):
    path = f"runs/{run}/predictions.parquet"
    workspace.write_table(path, pa.Table.from_pandas(change(workspace.read_table(path).to_pandas())))


def test_better_system_is_named_and_equal_ones_cannot_be_told_apart(workspace):
    found = compare(workspace, read_systems(workspace, ["good", "bad", "twin"]))
    assert (found.num_clips, found.num_groups) == (240, 12)
    verdicts = {(pair.first, pair.second): pair.verdict for pair in found.pairs}
    assert verdicts["good", "bad"].startswith("good is better than bad by 0.")
    assert verdicts["bad", "twin"].startswith("twin is better than bad by 0.")
    assert verdicts["good", "twin"].startswith(
        "good and twin do not differ significantly: the difference is "
    )
    table = workspace.read_table("runs/good/1/predictions.parquet").to_pandas()
    one = stats.pearsonr(table["Joy"], table["true_Joy"]).statistic
    first = compare(workspace, read_systems(workspace, ["good/1", "bad"]))
    assert first.scores[0][0] == pytest.approx(one)
    assert "One seed only" in first.notes[1]


def test_p_values_are_corrected_for_how_many_are_compared(workspace):
    systems = read_systems(workspace, ["good/1", "good/2", "good/3", "twin/1", "bad/1"])
    few = compare(workspace, [systems[0], systems[-1]])
    many = compare(workspace, systems)
    (alone,) = few.pairs
    among = next(pair for pair in many.pairs if (pair.first, pair.second) == ("good/1", "bad/1"))
    assert len(many.pairs) == 10
    assert alone.p_value == alone.mean.p_value == pytest.approx(among.mean.p_value)
    assert among.p_value > alone.p_value
    assert max(among.label_p_values) <= 1


def test_clips_that_one_system_was_spared_count_for_none(workspace):
    easy = [f"{index:03d}" for index in range(0, 240, 2)]
    rewrite(workspace, "bad/1", lambda table: table[table["clip_id"].isin(easy)])
    found = compare(workspace, read_systems(workspace, ["good", "bad"]))
    assert found.num_clips == 120
    table = workspace.read_table("runs/good/1/predictions.parquet").to_pandas()
    table = table[table["clip_id"].isin(easy)]
    by_hand = stats.pearsonr(table["Joy"], table["true_Joy"]).statistic
    one = next(system for system in found.systems if system.name == "good").seeds["1"]
    assert stats.pearsonr(one.predicted[:, 0], one.true[:, 0]).statistic == pytest.approx(by_hand)


def test_what_cannot_be_compared_is_refused(workspace):
    with pytest.raises(UserError, match="has no finished run of 'goood'"):
        read_systems(workspace, ["goood"])
    with pytest.raises(UserError, match="has no run 'good/9'"):
        read_systems(workspace, ["good/9"])
    with pytest.raises(UserError, match="needs at least two systems"):
        compare(workspace, read_systems(workspace, ["good"]))
    with pytest.raises(UserError, match="--label 'Joi'"):
        compare(workspace, read_systems(workspace, ["good", "bad"]), ["Joi"])
    rewrite(workspace, "bad/2", lambda table: table.assign(true_Joy=table["true_Joy"] + 1))
    with pytest.raises(UserError, match="against different label values"):
        compare(workspace, read_systems(workspace, ["good", "bad"]))
    rewrite(workspace, "bad/1", lambda table: table.head(2))
    with pytest.raises(UserError, match="2 scored clips in common"):
        compare(workspace, read_systems(workspace, ["good", "bad/1"]))


def test_differences_that_are_written_hold_no_formulas(workspace, tmp_path):
    formula = "=HYPERLINK(A1)"
    for run in [f"{name}/{seed}" for name in ("good", "bad") for seed in (1, 2)]:
        rewrite(workspace, run, lambda t: t.rename(columns={"Joy": formula, "true_Joy": f"true_{formula}"}))
    found = compare(workspace, read_systems(workspace, ["good/1", "bad/1"]))
    write_differences(found, tmp_path / "d.csv")
    assert f"good/1,bad/1,'{formula}," in (tmp_path / "d.csv").read_text()


def test_the_verb_prints_verdicts_and_writes_differences(workspace, tmp_path):
    arguments = [
        "compare",
        "-w",
        workspace.root,
        "good",
        "bad",
        "--label",
        "Joy",
        "--to",
        str(tmp_path / "d.csv"),
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "good is better than bad by" in done.output.replace("\n", " ")
    lines = (tmp_path / "d.csv").read_text().splitlines()
    assert len(lines) == 3
    assert lines[1].startswith("good,bad,mean,")


def test_a_run_that_is_being_replaced_is_not_compared(workspace):
    workspace.delete_file("runs/good/3/metrics.json")  # as a training does before it replaces predictions
    [good] = read_systems(workspace, ["good"])
    assert list(good.seeds) == ["1", "2"]
    for seed in (1, 2):
        workspace.delete_file(f"runs/good/{seed}/metrics.json")
    with pytest.raises(UserError, match="finish it with emi-ray train"):
        read_systems(workspace, ["good"])
