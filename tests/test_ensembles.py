"""Ensembles of several runs."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from planted import planted_workspace
from typer.testing import CliRunner

from emi_ray.cli.app import app
from emi_ray.comparison import compare, read_systems
from emi_ray.config import WorkspaceConfig
from emi_ray.ensemble_weights import MEAN, combine, fit_weights
from emi_ray.ensembles import build, build_ensemble, evaluate_run
from emi_ray.errors import UserError
from emi_ray.new_clips import Record
from emi_ray.prediction import predict_split
from emi_ray.recipe.loading import load_recipe
from emi_ray.reporting import build_report
from emi_ray.schema import EMOTIONS
from emi_ray.status import read_status
from emi_ray.store.feature_store import stores_of
from emi_ray.training.plan import plan_run
from emi_ray.training.run import execute_run
from emi_ray.workspace import CLIPS, Workspace

SMALL = ["training.epochs=2", "training.lr=3e-3"]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Two seeds of text and one of audio, trained; 6 % of the clips have no text."""
    workspace = planted_workspace(tmp_path_factory.mktemp("w"), num_train=60, num_val=60, num_test=12)
    for name, seed in (("text", 1), ("text", 2), ("audio", 1)):
        settings = [*SMALL, f"encoders.{name}.hidden=16"]
        execute_run(plan_run(workspace, load_recipe(name, settings), WorkspaceConfig(), seed))
    return workspace


def test_a_mean_is_that_of_the_members_that_can_read_a_clip():
    said = np.array([[[1.0], [3.0], [np.nan]], [[3.0], [np.nan], [np.nan]]])
    found = combine(MEAN, said, ["a,b", "a", ""])
    np.testing.assert_array_equal(found, [[2.0], [3.0], [np.nan]])


def test_fitted_weights_follow_who_knows_what_and_what_is_there():
    rng = np.random.default_rng(0)
    true = rng.normal(size=(600, 2))
    knows = true + rng.normal(0, 0.5, true.shape)
    nonsense = rng.normal(size=true.shape)
    patterns = np.where(np.arange(600) % 3 == 0, "text", "text,audio").tolist()
    mixed = np.where((np.array(patterns) == "text")[:, None], knows, nonsense)
    weights = fit_weights(np.stack([mixed, nonsense[::-1]]), true, patterns)
    assert np.array(weights.patterns["text"])[0].min() > 0.6
    assert np.array(weights.patterns["text,audio"]).max() < 0.25
    assert (np.array(weights.weight) >= 0).all()
    said = combine(weights, np.stack([mixed, nonsense[::-1]]), patterns)
    rows = np.array(patterns) == "text"
    assert np.corrcoef(said[rows, 0], true[rows, 0])[0, 1] > 0.85


def test_an_ensemble_is_a_run_like_any_other(workspace):
    metrics = build_ensemble(workspace, ["text", "audio/1"], "both")
    assert metrics["members"] == ["text/1", "text/2", "audio/1"]
    assert metrics["num_val"] == 60
    table = workspace.read_table("runs/both/42/predictions.parquet").to_pandas()
    parts = [
        workspace.read_table(f"runs/{run}/predictions.parquet").to_pandas().set_index("clip_id")
        for run in metrics["members"]
    ]
    for row in table.itertuples():
        known = [
            part.loc[row.clip_id, "Joy"]
            for part in parts
            if row.clip_id in part.index and part.loc[row.clip_id, "modalities"]
        ]
        assert row.Joy == pytest.approx(np.mean(known))
    again = evaluate_run(workspace, "both/42")
    assert again["val"]["val_pearson"] == pytest.approx(metrics["val_pearson"], abs=1e-6)
    said = predict_split(workspace, "both/42", "test").to_pandas().set_index("clip_id")
    held = table[table["split"] == "test"].set_index("clip_id")
    pd.testing.assert_frame_equal(said.loc[held.index, list(EMOTIONS)], held[list(EMOTIONS)], atol=1e-5)
    found = compare(workspace, read_systems(workspace, ["both", "audio"]))
    assert found.num_clips == 60
    build_report(workspace)
    html = workspace.read_text("report/index.html")
    assert "Mean of text/1, text/2, audio/1" in html


def test_what_a_fitted_ensemble_says_of_a_validation_clip_does_not_rest_on_its_label(workspace):
    build_ensemble(workspace, ["text", "audio/1"], "fit", "fitted")
    first = workspace.read_table("runs/fit/42/predictions.parquet").to_pandas().set_index("clip_id")
    clip = first.index[3]
    folds = workspace.read_json("runs/fit/42/ensemble.json")["folds"]
    originals = {}
    for run in ("text/1", "text/2", "audio/1"):
        path = f"runs/{run}/predictions.parquet"
        originals[path] = workspace.read_table(path)
        table = originals[path].to_pandas()
        table.loc[table["clip_id"] == clip, "true_Joy"] = (
            1.0 - table.loc[table["clip_id"] == clip, "true_Joy"]
        )
        workspace.write_table(path, pa.Table.from_pandas(table, preserve_index=False))
    try:
        build_ensemble(workspace, ["text", "audio/1"], "fit", "fitted")
    finally:
        for path, table in originals.items():
            workspace.write_table(path, table)
    second = workspace.read_table("runs/fit/42/predictions.parquet").to_pandas().set_index("clip_id")
    same = [other for other, fold in folds.items() if fold == folds[clip]]
    changed = [other for other, fold in folds.items() if fold != folds[clip]]
    np.testing.assert_allclose(first.loc[same, "Joy"], second.loc[same, "Joy"])
    assert not np.allclose(first.loc[changed, "Joy"], second.loc[changed, "Joy"])
    held = evaluate_run(workspace, "fit/42")["val"]["val_pearson"]
    joy = [
        np.corrcoef(second.loc[list(folds), name], second.loc[list(folds), f"true_{name}"])[0, 1]
        for name in EMOTIONS
    ]
    assert held == pytest.approx(np.mean(joy), abs=1e-5)


def test_clips_that_a_member_has_learnt_are_no_test_clips_of_the_ensemble(workspace, caplog):
    """Its members were trained on different splits."""
    path = "runs/text/1/predictions.parquet"
    before = workspace.read_table(path)
    learnt = workspace.read_table("runs/text/2/split.parquet")["clip_id"][0].as_py()
    row = before.filter(pc.equal(before["split"], "test")).slice(0, 1)
    row = row.set_column(0, "clip_id", pa.array([learnt]))
    try:
        workspace.write_table(path, pa.concat_tables([before, row]))
        build_ensemble(workspace, ["text", "audio/1"], "leaky")
    finally:
        workspace.write_table(path, before)
    table = workspace.read_table("runs/leaky/42/predictions.parquet")
    test = table.filter(pc.equal(table["split"], "test"))["clip_id"].to_pylist()
    assert len(test) == 12
    assert learnt not in test
    assert f"1 test clip of one run, for example {learnt}, is in another run's training" in caplog.text


def test_an_ensemble_of_a_member_that_is_trained_again_meanwhile_is_refused(workspace, monkeypatch):
    metrics = workspace.read_json("runs/audio/1/metrics.json")
    copied = build._copy_models

    def trained_again(*arguments):
        copied(*arguments)
        workspace.write_json("runs/audio/1/metrics.json", {**metrics, "run_key": "another"})

    monkeypatch.setattr(build, "_copy_models", trained_again)
    try:
        with pytest.raises(UserError, match="trained again while the ensemble was built"):
            build_ensemble(workspace, ["text", "audio/1"], "torn")
    finally:
        workspace.write_json("runs/audio/1/metrics.json", metrics)
    assert not workspace.exists("runs/torn/42/ensemble.json")
    with workspace.driving("runs/torn", "Ensemble torn"), pytest.raises(UserError, match="is in progress"):
        build_ensemble(workspace, ["text", "audio/1"], "torn")


def test_an_ensemble_whose_members_features_have_changed_is_not_scored(workspace, tmp_path):
    copy = Workspace(str(shutil.copytree(workspace.root, tmp_path / "w")))
    build_ensemble(copy, ["text", "audio/1"], "both")
    evaluate_run(copy, "both/42")
    (store,) = stores_of(copy, "audio")
    rows = list(store.rows())
    store.held.discard(store.held.record())
    store.write([replace(row, values=-row.values) for row in rows])
    with pytest.raises(
        UserError, match="members/2 was trained on features that have changed since: audio of"
    ):
        evaluate_run(copy, "both/42")


def test_what_makes_no_ensemble_is_refused(workspace):
    build_ensemble(workspace, ["text"], "twins")
    with pytest.raises(UserError, match="at least two runs"):
        build_ensemble(workspace, ["audio"], "one")
    with pytest.raises(UserError, match="an ensemble itself"):
        build_ensemble(workspace, ["twins/42", "audio/1"], "nested")
    with pytest.raises(UserError, match="this is the name of a recipe"):
        build_ensemble(workspace, ["text"], "f2")


def test_the_verb_makes_a_run_that_predict_takes(workspace, tmp_path):
    runner = CliRunner()
    done = runner.invoke(app, ["ensemble", "-w", workspace.root, "text", "--name", "pair"])
    assert done.exit_code == 0, done.output
    to = tmp_path / "s.csv"
    done = runner.invoke(
        app, ["predict", "-w", workspace.root, "pair/42", "--to", str(to), "--form", "submission"]
    )
    assert done.exit_code == 0, done.output
    assert len(pd.read_csv(to)) == 12


def ensemble_lines(workspace):
    lines = read_status(workspace, WorkspaceConfig()).lines
    return {line.name: line for line in lines if line.stage == "runs"}


def test_the_status_tells_whether_the_members_are_current_and_how_to_make_an_ensemble_again(workspace):
    build_ensemble(workspace, ["text/1", "audio/1"], "told", "fitted", seed=7)
    clips = workspace.clips()
    line = ensemble_lines(workspace)["told/7"]
    assert (line.current, line.stale, line.missing, line.command) == (1, 0, 0, None)
    joy = pc.subtract(1.0, clips["Joy"]).cast(clips.schema.field("Joy").type)
    workspace.write_table(CLIPS, clips.set_column(clips.column_names.index("Joy"), clips.field("Joy"), joy))
    try:
        found = read_status(workspace, WorkspaceConfig())
        line = next(line for line in found.lines if line.name == "told/7")
        assert (line.current, line.stale, line.missing) == (0, 1, 0)
        assert line.why[0].startswith("member text/1: clips, splits, groups or values of labels")
        again = f"emi-ray ensemble -w {workspace.root} text/1 audio/1 --name told --weights fitted --seed 7"
        assert line.command == again
        train = f"emi-ray train -w {workspace.root} text --seed 1"
        place = next(i for i, command in enumerate(found.commands) if command.startswith(train))
        assert place < found.commands.index(again)
        done = CliRunner().invoke(app, ["status", "-w", workspace.root])
        assert done.exit_code == 0, done.output
    finally:
        workspace.write_table(CLIPS, clips)


def test_an_ensemble_is_stale_after_a_member_was_trained_again_and_outlives_one_that_is_gone(workspace):
    build_ensemble(workspace, ["text/1", "audio/1"], "kept", seed=7)
    path = "runs/text/1/model.json"
    model = workspace.read_json(path)
    workspace.write_json(path, {**model, "run_key": "another"})
    try:
        assert ensemble_lines(workspace)["kept/7"].why == ("member text/1 was trained again since",)
        workspace.delete(path)
        assert ensemble_lines(workspace)["kept/7"].current == 1
    finally:
        workspace.write_json(path, model)
    workspace.delete("runs/kept/7/metrics.json")
    line = ensemble_lines(workspace)["kept/7"]
    assert (line.missing, line.command) == (1, None)
    workspace.delete("runs/kept/7")


def test_predictions_of_an_ensemble_are_stale_once_its_members_are_others(workspace, tmp_path):
    for index in range(3):
        (tmp_path / f"{index:05d}.wav").touch()
    build_ensemble(workspace, ["text/1", "audio/1"], "asked", seed=7)
    keys = [member["run_key"] for member in workspace.read_json("runs/asked/7/ensemble.json")["members"]]
    inner = workspace.inner("predictions/asked/7/some")
    inner.write_table(CLIPS, workspace.clips().slice(0, 3))
    inner.write_config(WorkspaceConfig())

    def line(run_keys):
        Record(tuple(run_keys), (str(tmp_path),), (), finished=True).write(inner)
        lines = read_status(workspace, WorkspaceConfig()).lines
        return next(line for line in lines if line.stage == "predictions")

    assert line(keys).current == 3
    assert line([keys[0], "another"]).stale == 3


def test_a_member_that_is_gone_is_trained_again_before_its_stale_ensemble(workspace):
    build_ensemble(workspace, ["text/1", "audio/1"], "last", seed=7)
    clips = workspace.clips()
    joy = pc.subtract(1.0, clips["Joy"]).cast(clips.schema.field("Joy").type)
    workspace.write_table(CLIPS, clips.set_column(clips.column_names.index("Joy"), clips.field("Joy"), joy))
    workspace.delete("runs/audio/1")
    found = read_status(workspace, WorkspaceConfig())
    names = [line.name for line in found.lines if line.stage == "runs"]
    assert names.index("audio/1") < names.index("last/7")
    assert f"emi-ray train -w {workspace.root} audio --seed 1" in found.commands
