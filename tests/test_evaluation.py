import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from planted import planted_workspace
from safetensors.torch import save

from emi_ray.config import ExtractionSettings, WorkspaceConfig
from emi_ray.errors import UserError
from emi_ray.evaluation import (
    as_intensities,
    evaluate_single_run,
    num_limited,
    predict_from_stores,
    write_submission,
)
from emi_ray.metrics import mean_score
from emi_ray.model_extractors import config_of
from emi_ray.recipe.loading import load_recipe
from emi_ray.schema import EMOTION_LABELS, EMOTIONS, Label
from emi_ray.store.feature_store import FeatureStore
from emi_ray.training import checkpoint
from emi_ray.training.checkpoint import load_model, metadata_of
from emi_ray.training.plan import plan_run
from emi_ray.training.run import execute_run
from emi_ray.workspace import CLIPS, Workspace

SMALL = ["training.epochs=2", "fusion.hidden=16"] + [
    f"encoders.{m}.hidden=16" for m in ("text", "audio", "vision")
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workspace = planted_workspace(tmp_path_factory.mktemp("w"), num_train=48, num_val=24)
    metrics = execute_run(plan_run(workspace, load_recipe("f1", SMALL), WorkspaceConfig(), 42))
    return workspace, metrics


def stores_of(workspace):
    return {m: FeatureStore(workspace, m, f"made{m[0]}0000") for m in ("text", "audio", "vision")}


def test_evaluation_repeats_the_scores_of_training_and_adds_the_other_splits(trained):
    workspace, metrics = trained
    result = evaluate_single_run(workspace, "f1/42")
    assert result["val"]["val_pearson"] == pytest.approx(metrics["val_pearson"], abs=1e-6)
    assert result["train"]["num_train"] == 48
    assert "test" not in result
    assert workspace.read_json("runs/f1/42/evaluation.json") == result
    assert set(evaluate_single_run(workspace, "f1", ["val"])) == {"recipe", "seed", "val"}


def test_a_run_is_evaluated_on_the_clips_that_it_was_trained_with_whatever_the_corpus_says_now(trained):
    workspace, _ = trained
    before, clips = evaluate_single_run(workspace, "f1/42"), workspace.clips()
    column = clips.schema.get_field_index("split")
    swapped = pc.if_else(pc.equal(clips["split"], "train"), "val", clips["split"])
    try:
        workspace.write_table(CLIPS, clips.set_column(column, clips.schema.field(column), swapped))
        assert evaluate_single_run(workspace, "f1/42") == before
        workspace.write_table(CLIPS, clips.slice(1))
        with pytest.raises(UserError, match=f"clip '{clips['clip_id'][0]}', which the corpus no longer has"):
            evaluate_single_run(workspace, "f1/42")
    finally:
        workspace.write_table(CLIPS, clips)


def test_damaged_weights_are_named(trained):
    workspace, _ = trained
    weights = workspace.read_bytes("runs/f1/42/model.safetensors")
    try:
        for kept in (0, len(weights) // 2):
            workspace.write_bytes("runs/f1/42/model.safetensors", weights[:kept])
            with pytest.raises(UserError, match="runs/f1/42/model.safetensors is damaged"):
                evaluate_single_run(workspace, "f1/42")
    finally:
        workspace.write_bytes("runs/f1/42/model.safetensors", weights)


def test_clips_that_a_run_was_trained_on_are_not_scored_as_test_clips(trained, caplog):
    """The corpus was split again after the training."""
    workspace, _ = trained
    clips = workspace.clips()
    column = clips.schema.get_field_index("split")
    split = clips["split"].to_pylist()
    later = ["test"] * 60 + split[60:]
    try:
        workspace.write_table(CLIPS, clips.set_column(column, clips.schema.field(column), pa.array(later)))
        result = evaluate_single_run(workspace, "f1/42")
    finally:
        workspace.write_table(CLIPS, clips)
    assert "test" not in result
    assert result["train"]["num_train"] == 48
    assert "60 clips of the present test split are training or validation clips" in caplog.text


def test_a_model_whose_files_belong_to_two_runs_is_refused(trained):
    workspace, _ = trained
    weights = workspace.read_bytes("runs/f1/42/model.safetensors")
    assert metadata_of(weights)["run_key"] == workspace.read_json("runs/f1/42/metrics.json")["run_key"]
    description = workspace.read_json("runs/f1/42/model.json")
    try:
        workspace.write_json("runs/f1/42/model.json", {**description, "run_key": "of another"})
        with pytest.raises(UserError, match="is being replaced by another training"):
            load_model(workspace, "f1/42")
    finally:
        workspace.write_json("runs/f1/42/model.json", description)
    assert metadata_of(save({"a": torch.zeros(1)})) == {}


def test_a_run_that_is_killed_while_it_is_replaced_is_no_model(trained, monkeypatch, tmp_path):
    workspace = Workspace(str(shutil.copytree(trained[0].root, tmp_path / "w")))
    plan = plan_run(workspace, load_recipe("f1", [*SMALL, "training.lr=1e-4"]), WorkspaceConfig(), 42)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        execute_run(plan)
    with pytest.raises(UserError, match="has no trained model yet"):
        load_model(workspace, "f1/42")


def test_a_model_of_imported_features_says_that_it_cannot_read_clips(trained):
    with pytest.raises(UserError, match="imported text features"):
        config_of(load_model(trained[0], "f1"), ExtractionSettings())


def test_new_clips_get_one_row_each_in_the_order_asked_for(trained):
    workspace, _ = trained
    loaded = load_model(workspace, "f1")
    ids = ["00075", "00003", "nobody"]
    table = predict_from_stores(loaded, stores_of(workspace), ids)
    assert table["clip_id"].to_pylist() == ids
    assert table.column_names == ["clip_id", *EMOTIONS, "modalities"]
    known = workspace.read_table("runs/f1/42/predictions.parquet").to_pandas().set_index("clip_id")
    assert table["Joy"][0].as_py() == pytest.approx(known.loc["00075", "Joy"], abs=1e-5)
    assert table["modalities"][2].as_py() == ""


def test_a_modality_without_a_store_counts_as_missing(trained):
    workspace, _ = trained
    stores = {"audio": stores_of(workspace)["audio"]}
    table = predict_from_stores(load_model(workspace, "f1"), stores, ["00003"])
    assert table["modalities"].to_pylist() == ["audio"]


def test_features_of_another_fingerprint_are_refused(trained):
    workspace, _ = trained
    other = FeatureStore(workspace, "audio", "0123456789ab")
    with pytest.raises(UserError, match="madea0000") as refusal:
        predict_from_stores(load_model(workspace, "f1"), {"audio": other}, ["00003"])
    assert "0123456789ab" in str(refusal.value)


def test_evaluation_without_the_features_of_training_says_what_to_do(trained, tmp_path):
    workspace, _ = trained
    bare = planted_workspace(tmp_path, num_train=4, num_val=2, dims={"text": 64})
    for path in workspace.files("runs/f1/42"):
        bare.write_bytes(path, workspace.read_bytes(path))
    with pytest.raises(UserError, match="--modalities audio"):
        evaluate_single_run(bare, "f1")


def test_a_submission_has_the_challenges_header_and_one_clipped_row_a_clip(tmp_path):
    values = {name: [-0.5, 0.25] for name in EMOTIONS}
    table = pa.table({"clip_id": ["12660", "7"], "split": ["test", "test"], **values})
    path = tmp_path / "out" / "predictions.csv"
    write_submission(table, path, EMOTION_LABELS, id_width=5)
    lines = path.read_text().splitlines()
    assert lines[0] == "Filename,Admiration,Amusement,Determination,Empathic Pain,Excitement,Joy"
    assert lines[1] == "12660" + ",0.000000" * 6
    assert lines[2].startswith("00007,0.25")
    write_submission(table, path, EMOTION_LABELS)
    assert pd.read_csv(path, dtype={"Filename": str})["Filename"].tolist() == ["12660", "7"]


def test_predictions_are_clipped_to_the_range_of_their_label(tmp_path):
    table = pa.table({"clip_id": ["a", "b"], "age": [5.0, 80.0]})
    write_submission(table, tmp_path / "s.csv", [Label("age", 10, 60)])
    assert pd.read_csv(tmp_path / "s.csv")["age"].tolist() == [10, 60]


def test_a_clip_that_stands_twice_is_refused(tmp_path):
    table = pa.table({"clip_id": ["a", "a"], "age": [5.0, 80.0]})
    with pytest.raises(UserError, match="'a' has several predictions"):
        write_submission(table, tmp_path / "s.csv", [Label("age", 10, 60)])


def test_intensities_stay_in_range_and_are_blank_where_nothing_is_known():
    labels = [Label("Joy", 0.0, 1.0)]
    table = pa.table(
        {"clip_id": ["a", "b", "c"], "Joy": [-0.2, 0.4, 0.3], "modalities": ["text", "audio", ""]}
    )
    assert as_intensities(table, labels)["Joy"].to_pylist() == [0.0, 0.4, None]
    assert num_limited(table, labels) == {"Joy": 1}
    assert num_limited(table.slice(1), labels) == {}


def test_val_and_test_are_scored_by_one_rule_for_clips_without_input(tmp_path):
    workspace = planted_workspace(tmp_path, num_train=48, num_val=24, num_test=40, dims={"text": 64})
    clips = workspace.clips()
    for index, name in enumerate(clips.column_names):
        if name in EMOTIONS:
            filled = pa.array(np.random.default_rng(index).random(clips.num_rows))
            clips = clips.set_column(index, clips.schema.field(index), filled)
    workspace.write_table(CLIPS, clips)
    held = set(FeatureStore(workspace, "text", "madet0000").clip_ids())
    lacking = {
        split: sum(
            c not in held for c in clips.filter(pc.equal(clips["split"], split))["clip_id"].to_pylist()
        )
        for split in ("val", "test")
    }
    assert lacking["test"]
    settings = ["training.epochs=1", "encoders.text.hidden=16"]
    for missing in ("zero", "skip"):
        recipe = load_recipe("text", [*settings, f"encoders.text.missing={missing}"])
        execute_run(plan_run(workspace, recipe, WorkspaceConfig(), 1))
        result = evaluate_single_run(workspace, "text/1")
        left_out = lacking if missing == "skip" else {"val": 0, "test": 0}
        assert result["val"]["num_val"] == 24 - left_out["val"]
        assert result["test"]["num_test"] == 40 - left_out["test"]
        table = workspace.read_table("runs/text/1/predictions.parquet").to_pandas()
        assert table.groupby("split")["scored"].sum().to_dict() == {
            "test": 40 - left_out["test"],
            "val": 24 - left_out["val"],
        }


def test_a_fusion_keeps_what_its_parts_say_of_the_same_clips(trained):
    workspace, metrics = trained
    said = workspace.read_table("runs/f1/42/stages.parquet").to_pandas()
    true = workspace.read_table("runs/f1/42/predictions.parquet").to_pandas().set_index("clip_id")
    for stage, scores in metrics["stages"].items():
        own = said[said["stage"] == stage].set_index("clip_id")
        truth = true.loc[own.index, [f"true_{name}" for name in EMOTIONS]].to_numpy()
        assert mean_score("pearson", own[list(EMOTIONS)].to_numpy(), truth) == pytest.approx(
            scores["val_pearson"], abs=1e-5
        )
