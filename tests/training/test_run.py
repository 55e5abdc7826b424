import io

import numpy as np
import pandas as pd
import pytest
import torch
from planted import planted_workspace

from emi_ray.config import WorkspaceConfig
from emi_ray.errors import UserError
from emi_ray.evaluation import evaluate_single_run
from emi_ray.metrics import compute_scores
from emi_ray.recipe.loading import load_recipe
from emi_ray.schema import EMOTION_LABELS, EMOTIONS
from emi_ray.settings import read_yaml
from emi_ray.training.checkpoint import find_run, load_model
from emi_ray.training.plan import plan_run
from emi_ray.training.resume_state import ResumeState
from emi_ray.training.run import execute_run

SMALL = ["training.epochs=2", "fusion.hidden=16"] + [
    f"encoders.{m}.hidden=16" for m in ("text", "audio", "vision")
]


def plan(workspace, *overrides, name="f1", seed=42):
    return plan_run(workspace, load_recipe(name, [*SMALL, *overrides]), WorkspaceConfig(), seed)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workspace = planted_workspace(tmp_path_factory.mktemp("w"))
    return workspace, execute_run(plan(workspace))


def test_a_run_leaves_every_file_of_its_folder(finished):
    workspace, metrics = finished
    names = {path.rpartition("/")[2] for path in workspace.files("runs/f1/42")}
    assert names == {
        "history.csv",
        "metrics.json",
        "predictions.parquet",
        "split.parquet",
        "stages.parquet",
        "recipe.yaml",
        "versions.json",
        "model.safetensors",
        "model.json",
    }
    assert workspace.read_json("runs/f1/42/metrics.json") == metrics


def test_metrics_hold_what_reports_need(finished):
    metrics = finished[1]
    assert (metrics["recipe"], metrics["seed"], metrics["num_train"], metrics["num_val"]) == (
        "f1",
        42,
        96,
        48,
    )
    names = {"val_pearson", "val_pearson_empathic_pain", "val_ccc", "val_mae", "seconds", "num_parameters"}
    assert names <= set(metrics)
    assert list(metrics["stages"]) == ["text", "audio", "vision"]
    assert {"val_pearson", "val_pearson_joy", "num_val"} <= set(metrics["stages"]["audio"])
    assert metrics["num_missing"]["text"] > 0


def test_predictions_score_what_the_metrics_say(finished):
    workspace, metrics = finished
    table = workspace.read_table("runs/f1/42/predictions.parquet").to_pandas()
    val = table[table["split"] == "val"]
    true = val[[f"true_{name}" for name in EMOTIONS]].to_numpy()
    again = compute_scores(val[list(EMOTIONS)].to_numpy(), true, EMOTION_LABELS)
    assert again["val_pearson"] == pytest.approx(metrics["val_pearson"], abs=1e-9)
    test = table[table["split"] == "test"]
    assert len(test) == 8
    assert test["true_Joy"].isna().all()
    assert test["Joy"].notna().all()


def test_history_has_a_row_for_each_stage_and_epoch(finished):
    history = pd.read_csv(io.BytesIO(finished[0].read_bytes("runs/f1/42/history.csv")))
    assert list(history.columns[:5]) == ["stage", "epoch", "train_loss", "val_loss", "val_pearson"]
    counts = history.groupby("stage")["epoch"].count().to_dict()
    assert counts == {"text": 2, "audio": 2, "vision": 2, "fusion": 2}


def test_the_resolved_recipe_is_a_recipe(finished):
    workspace, _ = finished
    path = workspace.path("runs/f1/42/recipe.yaml")
    assert load_recipe(path) == load_recipe("f1", SMALL)
    assert read_yaml(workspace.read_text("runs/f1/42/recipe.yaml"), "")["training"]["epochs"] == 2


def test_a_model_is_rebuilt_from_its_files_alone(finished):
    workspace, _ = finished
    loaded = load_model(workspace, "f1")
    assert not loaded.model.training
    assert loaded.description.labels == EMOTION_LABELS
    assert loaded.description.fingerprint("audio") == "madea0000"
    assert loaded.description.extractors["audio"]["extractor"] == "planted-audio"


def test_a_finished_run_is_known_by_all_that_determines_it(finished):
    workspace, metrics = finished
    assert plan(workspace).finished() == metrics
    assert plan(workspace, "training.lr=1e-3").finished() is None
    assert plan(workspace, seed=43).finished() is None


def test_the_key_of_a_run_changes_with_its_labels(tmp_path):
    first = planted_workspace(tmp_path / "a", num_train=8, num_val=4)
    second = planted_workspace(tmp_path / "b", num_train=8, num_val=5)
    assert plan(first).key == plan(planted_workspace(tmp_path / "c", num_train=8, num_val=4)).key
    assert plan(first).key != plan(second).key


def test_an_interrupted_run_ends_as_the_undisturbed_one(finished, tmp_path):
    workspace = planted_workspace(tmp_path)
    saved = []

    class KilledError(Exception):
        pass

    def kill_in_vision(build, stage_ended):
        buffer = io.BytesIO()
        torch.save(build(), buffer)
        saved.append(buffer.getvalue())
        if len(saved) == 7:
            raise KilledError

    with pytest.raises(KilledError):
        execute_run(plan(workspace), on_checkpoint=kill_in_vision)
    workspace.delete("encoders")
    state = torch.load(io.BytesIO(saved[-1]), weights_only=True)
    metrics = execute_run(plan(workspace), resume=state)
    assert metrics["val_pearson"] == finished[1]["val_pearson"]
    assert workspace.read_bytes("runs/f1/42/model.safetensors") == finished[0].read_bytes(
        "runs/f1/42/model.safetensors"
    )


def test_a_run_is_found_by_recipe_where_it_has_one_seed(finished):
    workspace, _ = finished
    assert {find_run(workspace, name) for name in ("f1", "f1/42", "runs/f1/42/")} == {"runs/f1/42"}
    with pytest.raises(UserError, match="No run is called 'f3'"):
        find_run(workspace, "f3")


def test_a_score_that_does_not_exist_is_null_in_json(tmp_path):
    workspace = planted_workspace(tmp_path, num_train=24, num_val=12)
    clips = workspace.clips()
    column = clips.column_names.index("Joy")
    constant = np.where(np.array(clips["split"]) == "test", np.nan, 0.25)
    clips = clips.set_column(column, clips.schema.field("Joy"), [constant])
    workspace.write_table("clips.parquet", clips)
    metrics = execute_run(plan(workspace, name="f1"))
    assert metrics["val_pearson_joy"] is None
    assert metrics["num_labels_scored"] == 5
    assert metrics["constant_labels"] == ["Joy"]


def test_a_run_says_which_clips_chose_its_epoch_and_what_the_reported_ones_would_have_chosen(tmp_path):
    workspace = planted_workspace(tmp_path, num_train=60, num_val=16)
    metrics = execute_run(plan(workspace, "training.stop_on=inner", "training.epochs=4", name="f2"))
    assert (metrics["stopped_by"], metrics["num_inner"], metrics["num_train"]) == ("inner", 6, 54)
    assert metrics["val_pearson_chosen_on_val"] >= metrics["val_pearson"]
    assert metrics["num_left_out"] == {"train": 0, "val": 0, "inner": 0}
    history = pd.read_csv(tmp_path / "runs/f2/42/history.csv")
    fused = history[history["stage"] == "fusion"]
    assert metrics["best_epoch"] == fused.loc[fused["inner_pearson"].idxmax(), "epoch"]
    split = workspace.read_table("runs/f2/42/split.parquet").to_pandas()
    assert split["split"].value_counts().to_dict() == {"train": 54, "val": 16, "inner": 6}
    again = evaluate_single_run(workspace, "f2/42", ["train", "val"])
    assert again["val"]["val_pearson"] == pytest.approx(metrics["val_pearson"], abs=1e-6)
    assert again["train"]["num_train"] == 54
    on_val = execute_run(plan_run(workspace, load_recipe("text", SMALL[:1]), WorkspaceConfig(), 42))
    assert (on_val["stopped_by"], on_val["num_inner"]) == ("val", 0)
    assert on_val["val_pearson_chosen_on_val"] == pytest.approx(on_val["val_pearson"], abs=1e-3)


def test_the_expanded_split_of_a_run_is_written_down(tmp_path):
    workspace = planted_workspace(tmp_path, num_train=24, num_val=16)
    metrics = execute_run(plan(workspace, name="f3"))
    assert (metrics["num_train"], metrics["num_val"]) == (32, 8)
    table = workspace.read_table("splits/expanded-42.parquet").to_pandas().set_index("clip_id")
    assert table["split"].value_counts().to_dict() == {"train": 32, "val": 8, "test": 8}
    predicted = workspace.read_table("runs/f3/42/predictions.parquet").to_pandas()
    held_out = predicted.loc[predicted["split"] == "val", "clip_id"]
    assert set(held_out) == set(table.index[table["split"] == "val"])


def test_features_of_an_extractor_that_a_recipe_names_and_the_workspace_lacks_are_told_how_to_make(tmp_path):
    workspace = planted_workspace(tmp_path, num_train=8, num_val=4)
    with pytest.raises(UserError, match="extractors.vision.name=dinov2-face") as refusal:
        plan_run(workspace, load_recipe("t3-dinov2-face-gru"), WorkspaceConfig(), 1)
    assert "--any-features" in str(refusal.value)
    stand_in = load_recipe("t3-dinov2-face-gru", any_features=True)
    assert stand_in.title.endswith("(on other features than it names)")
    assert plan_run(workspace, stand_in, WorkspaceConfig(), 1).fingerprints == {"vision": "madev0000"}


@pytest.mark.parametrize("damage", [b"", b"\x00" * 400, "cut"])
def test_a_damaged_encoder_or_checkpoint_is_trained_again(tmp_path, damage, caplog):
    """As a power failure leaves it."""
    workspace = planted_workspace(tmp_path, num_train=24, num_val=12)
    recipe = load_recipe("text", ["encoders.text.hidden=16", "training.epochs=1"])
    plan = plan_run(workspace, recipe, WorkspaceConfig(), 1)
    first = execute_run(plan)
    (encoder,) = workspace.files("encoders", recursive=True)
    whole = workspace.read_bytes(encoder)
    broken = whole[:300] if damage == "cut" else damage
    workspace.write_bytes(encoder, broken)
    workspace.write_bytes(f"checkpoints/{plan.key}.pt", broken)
    assert ResumeState(workspace, plan.key).load() is None
    again = execute_run(plan)
    assert again["val_pearson"] == first["val_pearson"]
    assert not again["stages"]["text"]["reused"]
    assert execute_run(plan)["stages"]["text"]["reused"]
    assert [record.message.split(" cannot be read")[0] for record in caplog.records] == [
        workspace.path(f"checkpoints/{plan.key}.pt"),
        workspace.path(encoder),
    ]
