"""The paper's tables, filled from runs; training itself is tested elsewhere."""

import csv
import io

import numpy as np
import pyarrow as pa
import pytest
from killed_driver import RunsCommand
from planted import planted_workspace

from emi_ray.config import CorpusSettings, WorkspaceConfig
from emi_ray.errors import UserError
from emi_ray.recipe.loading import load_recipe
from emi_ray.reproduction import load_recipes, recipes_of, reproduce
from emi_ray.schema import EMOTION_LABELS, EMOTIONS, clips_schema
from emi_ray.training.runs import RunResult
from emi_ray.workspace import Workspace

NUM_CLIPS = 60


@pytest.fixture
def workspace(tmp_path):
    workspace = Workspace(str(tmp_path))
    workspace.write_config(WorkspaceConfig(corpus=CorpusSettings(kind="demo", source="/clips")))
    schema = clips_schema(EMOTION_LABELS)
    columns = {"clip_id": ids(), "split": ["val"] * NUM_CLIPS}
    columns |= {name: truth()[:, index] for index, name in enumerate(EMOTIONS)}
    nothing = pa.nulls(NUM_CLIPS)
    table = [pa.array(columns[f.name]) if f.name in columns else nothing.cast(f.type) for f in schema]
    workspace.write_table("clips.parquet", pa.table(table, schema=schema))
    return workspace


def ids():
    return [f"{index:03d}" for index in range(NUM_CLIPS)]


def truth():
    return np.random.default_rng(0).random((NUM_CLIPS, 6))


def trainer(fails=()):
    """Instead of training: a run's files, as train_runs leaves them."""

    def train(workspace, requests, config, **hooks):
        results = []
        for request in requests:
            if request.recipe.name in fails:
                problem = UserError("no such features")
                results.append(RunResult(request.recipe, request.seed, problem=problem))
                continue
            folder = f"runs/{request.recipe.name}/{request.seed}"
            said = truth() + np.random.default_rng([request.seed, len(request.recipe.name)]).normal(
                0, 0.3, (60, 6)
            )
            table = {"clip_id": ids(), "split": ["val"] * NUM_CLIPS}
            table |= {name: said[:, i] for i, name in enumerate(EMOTIONS)}
            table |= {f"true_{name}": truth()[:, i] for i, name in enumerate(EMOTIONS)}
            workspace.write_table(f"{folder}/predictions.parquet", pa.table(table))
            made_by = {m: {"extractor": "made", "settings": {}} for m in request.recipe.modalities}
            workspace.write_json(f"{folder}/model.json", {"extractors": made_by})
            results.append(RunResult(request.recipe, request.seed, metrics={"val_pearson": 0.0}))
        return results

    return train


def test_every_table_names_recipes_that_ship():
    assert recipes_of("5") == ["f1-faithful", "paper-faithful", "f3-faithful", "f4-faithful", "f5-faithful"]
    assert recipes_of("4") == ["text-faithful", "audio-faithful", "vision-faithful", "motion-faithful"]
    assert {"text", "f1", "f2", "f5"} <= set(recipes_of("twins"))
    assert all(name.startswith("t3-") for name in recipes_of("3"))
    assert len(recipes_of("ablation")) == 3
    assert {"ours", "first-place", "second-place"} <= set(recipes_of("rivals"))
    with pytest.raises(UserError, match="--tables 6"):
        recipes_of("6")


@pytest.mark.parametrize("table", ["3", "4", "5"])
def test_each_row_of_a_table_of_the_paper_is_filled_by_one_recipe(table):
    papers = [load_recipe(name).paper for name in recipes_of(table)]
    assert all(paper.table == int(table) for paper in papers)
    rows = [paper.row for paper in papers]
    assert len(set(rows)) == len(rows)


def test_rows_hold_ours_theirs_and_why_they_cannot_be_compared(workspace):
    recipes = load_recipes(["4", "5"])
    made = reproduce(workspace, ["4", "5"], recipes, 3, WorkspaceConfig(), trainer(fails=["f3-faithful"]))
    tables = {table.title: table for table in made}
    text = next(
        row
        for row in tables["Table 4: encoders of the staged system"].rows
        if row[0].startswith("text-faithful:")
    )
    scores = []
    for seed in (42, 43, 44):
        table = workspace.read_table(f"runs/text-faithful/{seed}/predictions.parquet").to_pandas()
        scores.append(np.mean([np.corrcoef(table[name], table[f"true_{name}"])[0, 1] for name in EMOTIONS]))
    mean = f"{np.mean(scores):.4f}"
    assert text[1] == f"{mean} ± {np.std(scores, ddof=1):.4f}"
    low, high = map(float, text[2].split(" to "))
    assert low < np.mean(scores) < high
    assert text[3:6] == ["3", "60", "0.3950"]
    assert text[6] == f"{np.mean(scores) - 0.395:+.4f}"
    assert text[7] == "on other features; on other clips"
    by_label = next(row for row in tables["Table 4 by label"].rows if row[0] == "motion-faithful")
    assert by_label[1].endswith("(−0.007)")
    missing = next(row for row in tables["Table 5: fusion"].rows if row[0].startswith("f3-faithful:"))
    assert missing[1] == "–"
    assert "no such features" in missing[7]
    trained = len(recipes_of("5")) - 1
    assert len(tables["Table 5: fusion, differences"].rows) == trained * (trained - 1) // 2
    for ending in ("md", "tex", "csv"):
        assert "paper-faithful" in workspace.read_text(f"reproduction/tables.{ending}")


def test_settings_reach_the_recipes_that_have_such_a_part():
    recipes = load_recipes(
        ["twins", "rivals"], ["encoders.text.backbone=/tiny", "fusion.hidden=16", "training.epochs=2"]
    )
    assert recipes["text"].encoders["text"].backbone is None
    assert recipes["first-place-finetuned"].encoders["text"].backbone == "/tiny"
    assert recipes["second-place"].fusion.hidden == 16
    assert recipes["late-fusion"].fusion.hidden != 16  # late fusion has no such part
    assert {recipe.training.epochs for recipe in recipes.values()} == {2}
    with pytest.raises(UserError, match="epochz"):
        load_recipes(["4"], ["training.epochz=2"])


SMALL = [f"encoders.{m}.hidden=16" for m in ("text", "audio", "vision", "motion")]


@pytest.mark.slow
def test_reproduce_that_is_killed_goes_on_where_it_was_and_fills_every_row(tmp_path):
    workspace = planted_workspace(tmp_path, num_train=96, num_val=48)
    command = [
        "reproduce",
        "-w",
        workspace.root,
        "--tables",
        "4",
        "--seeds",
        "2",
        "training.epochs=20",
        *SMALL,
    ]
    runs = [f"{recipe}/{seed}" for recipe in recipes_of("4") for seed in (42, 43)]
    eight = RunsCommand(workspace, command, runs)
    before = eight.kill_after_two()
    assert not workspace.exists("reproduction/tables.csv")
    assert before.items() <= eight.repeat().items(), "a finished run was trained twice"
    rows = list(csv.DictReader(io.StringIO(workspace.read_text("reproduction/tables.csv"))))
    filled = [row for row in rows if row["table"].startswith("Table 4: ")]
    assert [row["seeds"] for row in filled] == ["2"] * 4
    assert all(" ± " in row["ours"] for row in filled)
