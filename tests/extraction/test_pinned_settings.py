"""Features keep the precision and the face detector of their extraction on every machine."""

import csv

import numpy as np
import pytest

from emi_ray.corpus.setup import init_workspace
from emi_ray.extraction.pending import store_of
from emi_ray.extraction.pipeline import Pipeline, plan_pipeline
from emi_ray.media.provenance import Inputs
from emi_ray.media.yunet import settle_faces
from emi_ray.recipe.loading import load_recipe
from emi_ray.schema import Origin
from emi_ray.status.features import feature_lines
from emi_ray.store.feature_layout import ClipFeatures
from emi_ray.training.data.feature_sources import find_stores
from emi_ray.workspace import Workspace
from tests.tiny_checkpoints import save_speech_model

CLIPS = ("a", "b", "c")


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Workspace:
    """Three clips of sound, and an extractor whose precision is left open. This machine would choose float32."""
    for name in (
        "emi_ray.pretrained_weights.loading.best_dtype",
        "emi_ray.extractors.pretrained.base.best_dtype",
    ):
        monkeypatch.setattr(name, lambda: "float32")
    with (tmp_path / "clips.csv").open("w") as stream:
        writer = csv.writer(stream)
        writer.writerow(["clip_id", "split", "audio"])
        for clip in CLIPS:
            (tmp_path / f"{clip}.wav").touch()
            writer.writerow([clip, "train", str(tmp_path / f"{clip}.wav")])
    weights = save_speech_model(tmp_path / "weights", "Wav2Vec2", "group")
    settings = ["extractors.audio.name=hf-audio", f"extractors.audio.settings.weights={weights}"]
    made = Workspace(str(tmp_path / "workspace"))
    init_workspace(made, "table", str(tmp_path / "clips.csv"), settings)
    return made


def fill(pipeline: Pipeline, clips: tuple[str, ...]) -> str:
    """A store as an extraction by this pipeline leaves it; returns its fingerprint."""
    spec = pipeline.specs["audio"]
    store = store_of(pipeline.workspace, spec)
    store.create(spec.identity, 2)
    stamps = Inputs(pipeline.workspace.clips()).stamps(spec.needs).to_pylist()
    values, times = np.ones((1, 2), np.float16), np.zeros(1, np.float32)
    store.write(
        [ClipFeatures(c, values, times, {}, Origin("x", s)) for c, s in zip(clips, stamps, strict=False)]
    )
    return store.fingerprint


def test_what_gpus_made_in_bfloat16_is_current_for_a_machine_without_one(workspace):
    config = workspace.config()
    made = fill(plan_pipeline(workspace, config, ["audio"], {"audio": "bfloat16"}), CLIPS)
    assert plan_pipeline(workspace, config, ["audio"]).specs["audio"].fingerprint == made
    asked = plan_pipeline(workspace, config, ["audio"], {"audio": "float32"}).specs["audio"]
    assert (asked.fingerprint, asked.settings.dtype) == (made, "bfloat16")
    lines = {line.name: line for line in feature_lines(workspace, config, workspace.clips())}
    line = lines["audio (hf-audio)"]
    assert (line.current, line.missing, line.command) == (3, 0, None)
    recipe = load_recipe("audio")
    assert find_stores(workspace, recipe, config)["audio"].fingerprint == made


def test_of_two_precisions_that_of_the_most_clips_is_kept_and_one_that_is_set_counts(workspace):
    config = workspace.config()
    many = fill(plan_pipeline(workspace, config, ["audio"], {"audio": "bfloat16"}), CLIPS)
    in_float32 = workspace.config(["extractors.audio.settings.dtype=float32"])
    few = fill(plan_pipeline(workspace, in_float32, ["audio"]), CLIPS[:1])
    assert few != many
    assert plan_pipeline(workspace, config, ["audio"]).specs["audio"].fingerprint == many
    assert plan_pipeline(workspace, in_float32, ["audio"]).specs["audio"].fingerprint == few


def test_features_of_haar_stay_when_the_weights_of_yunet_come_to_be_there(tmp_path, monkeypatch):
    place = tmp_path / "clips.csv"
    place.write_text(
        "clip_id,split,video\n" + "".join(f"{clip},train,{tmp_path}/{clip}.mp4\n" for clip in CLIPS)
    )
    for clip in CLIPS:
        (tmp_path / f"{clip}.mp4").touch()
    workspace = Workspace(str(tmp_path / "workspace"))
    init_workspace(workspace, "table", str(place), [])
    config = workspace.config()
    monkeypatch.setattr("emi_ray.media.yunet._cached", lambda settings: None)
    made = plan_pipeline(workspace, config, ["vision"])
    spec = made.specs["vision"]
    store = store_of(workspace, spec)
    store.create(spec.identity, 2)
    store.write([ClipFeatures("a", np.ones((1, 2), np.float16), np.zeros(1, np.float32), {})])
    weights = tmp_path / "yunet" / "weights.onnx"
    weights.parent.mkdir()
    weights.touch()
    monkeypatch.setattr("emi_ray.media.yunet._cached", lambda settings: weights)
    assert settle_faces(config.media.faces).detector == "yunet"
    planned = plan_pipeline(workspace, config, ["vision"])
    assert planned.config.media.faces.detector == "haar"
    assert planned.specs["vision"].fingerprint == spec.fingerprint
