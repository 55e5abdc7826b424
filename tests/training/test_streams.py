"""Several sets of features of one modality in one recipe, and features with extras as further dimensions."""

from dataclasses import replace

import numpy as np
import pytest
from planted import planted_workspace

from emi_ray.config import WorkspaceConfig
from emi_ray.errors import UserError
from emi_ray.evaluation import evaluate_single_run, predict_from_stores
from emi_ray.model_extractors import config_of, extraction_rounds
from emi_ray.prediction import predict_split
from emi_ray.recipe.loading import load_recipe
from emi_ray.results.predictions import read_stage_predictions
from emi_ray.store.feature_layout import ClipFeatures
from emi_ray.store.feature_store import FeatureStore
from emi_ray.training.checkpoint import load_model
from emi_ray.training.plan import plan_run
from emi_ray.training.run import execute_run

RECIPE = """
title: Two backbones of vision, audio with extras
encoders:
  text: {type: mlp, hidden: 8}
  audio: {type: attention, hidden: 8, features: toned, extras: [valence, arousal]}
  frame: {modality: vision, type: attention, hidden: 8, features: planted-vision}
  face: {modality: vision, type: mean, hidden: 8, features: faces}
fusion: {type: concat, hidden: 8}
training: {epochs: 2}
"""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A workspace with a second store of vision, and one of audio with extras."""
    workspace = planted_workspace(tmp_path_factory.mktemp("w"), num_train=24, num_val=16, num_test=4)
    random = np.random.default_rng(0)
    for modality, extractor, width, names in (
        ("vision", "faces", 5, ()),
        ("audio", "toned", 3, ("arousal", "valence")),
    ):
        store = FeatureStore(workspace, modality, f"{extractor}00000"[:12])
        store.create({"extractor": extractor, "settings": {}, "modality": modality}, width)
        clips = []
        for clip_id in workspace.clips()["clip_id"].to_pylist()[:-1]:
            steps = random.normal(size=(int(random.integers(1, 6)), width)).astype(np.float16)
            extras = {name: np.full(len(steps), place + 0.5) for place, name in enumerate(names)}
            clips.append(ClipFeatures(clip_id, steps, np.arange(len(steps), dtype=np.float32), extras))
        store.write(clips)
    return workspace


def load(folder, text=RECIPE):
    path = folder / "two.yaml"
    path.write_text(text)
    return load_recipe(str(path))


@pytest.fixture(scope="module")
def trained(workspace, tmp_path_factory):
    plan = plan_run(workspace, load(tmp_path_factory.mktemp("r")), WorkspaceConfig(), 42)
    return plan, execute_run(plan)


def test_each_encoder_reads_its_own_features_and_extras_are_their_last_dimensions(trained):
    plan, metrics = trained
    data = plan.read_data()
    widths = {name: data.features[name].feature_dim for name in plan.recipe.streams}
    assert widths == {"text": 64, "audio": 3 + 2, "frame": 32, "face": 5}
    np.testing.assert_array_equal(np.unique(data.features["audio"].values[:, 3:], axis=0), [[1.5, 0.5]])
    assert list(metrics["stages"]) == ["text", "audio", "frame", "face"]
    assert metrics["num_missing"]["face"] == 0


def test_the_report_compares_a_fusion_with_each_encoder_by_its_name(workspace, trained):
    found = read_stage_predictions(workspace, "runs/two/42")
    assert set(found) == {"text", "audio", "frame", "face"}


def test_a_run_of_several_streams_is_rebuilt_scored_and_predicts(workspace, trained):
    metrics = trained[1]
    again = evaluate_single_run(workspace, "two/42", ["val"])["val"]
    assert again["val_pearson"] == pytest.approx(metrics["val_pearson"], abs=1e-6)
    loaded = load_model(workspace, "two/42")
    table = predict_split(workspace, "two/42", "test")
    assert set(table["modalities"].to_pylist()) <= {
        "text,audio,vision",
        "audio,vision",
        "text,vision",
        "vision",
    }
    alone = {"face": loaded.description.stores(workspace)["face"]}
    ids = workspace.clips()["clip_id"].to_pylist()[:3]
    assert predict_from_stores(loaded, alone, ids)["modalities"].to_pylist() == ["vision"] * 3


def test_new_clips_are_extracted_in_as_many_rounds_as_a_modality_has_extractors(
    workspace, trained, monkeypatch
):
    from emi_ray import model_extractors

    monkeypatch.setattr(model_extractors, "find_extractor", lambda name: object)
    loaded = load_model(workspace, "two/42")
    rounds = extraction_rounds(loaded)
    assert rounds == [["text", "audio", "frame"], ["face"]]
    identities = {name: {**i, "settings": {}} for name, i in loaded.description.extractors.items()}
    described = loaded.description.model_copy(update={"extractors": identities})
    configs = [
        config_of(replace(loaded, description=described), WorkspaceConfig().extraction, r) for r in rounds
    ]
    assert [config.extractors["vision"].name for config in configs] == ["planted-vision", "faces"]


def test_extras_that_features_lack_are_named(workspace, tmp_path):
    plan = plan_run(
        workspace, load(tmp_path, RECIPE.replace("valence, arousal", "anger")), WorkspaceConfig(), 42
    )
    with pytest.raises(UserError, match="'toned' and has no column 'anger'"):
        plan.read_data()


def test_extras_change_the_run(workspace, tmp_path):
    def key(text):
        return plan_run(workspace, load(tmp_path, text), WorkspaceConfig(), 42).key

    assert key(RECIPE) != key(RECIPE.replace("valence, arousal", "valence"))
