"""Runs, encoders and scores belong to the content of features, labels, ranges and transcripts."""

import numpy as np
import pyarrow as pa
import pytest
from planted import planted_workspace

from emi_ray.config import ExtractorSettings, WorkspaceConfig
from emi_ray.errors import UserError
from emi_ray.evaluation import evaluate_single_run
from emi_ray.recipe.loading import load_recipe
from emi_ray.schema import EMOTION_LABELS, Label, clips_schema, labels_of
from emi_ray.store.feature_layout import ClipFeatures
from emi_ray.store.feature_store import FeatureStore
from emi_ray.store.transcript_store import TranscriptStore
from emi_ray.training.checkpoint import load_model
from emi_ray.training.data.input_hashes import find_transcripts, read_inputs
from emi_ray.training.plan import plan_run
from emi_ray.training.run import execute_run
from emi_ray.workspace import CLIPS, Workspace

SMALL = ["training.epochs=2", "encoders.audio.hidden=16"]
AUDIO = "madea0000"


@pytest.fixture
def workspace(tmp_path):
    return planted_workspace(tmp_path, num_train=32, num_val=16, num_test=4)


def plan(workspace, config=None, *overrides):
    return plan_run(workspace, load_recipe("audio", [*SMALL, *overrides]), config or WorkspaceConfig(), 42)


def replace_features(workspace: Workspace, *clip_ids: str) -> None:
    """What an extraction does whose files were overwritten: same clips, same extractor, other numbers."""
    store = FeatureStore(workspace, "audio", AUDIO)
    record = store.held.record()
    rows = [row for row in store.rows() if row.clip_id in clip_ids]
    store.held.discard(record.filter(pa.array([i in clip_ids for i in record["clip_id"].to_pylist()])))
    store.write([ClipFeatures(r.clip_id, -r.values, r.timestamps_s, r.extras) for r in rows])


def with_labels(workspace: Workspace, labels: list[Label], values: dict[str, pa.ChunkedArray]) -> None:
    clips = workspace.clips()
    schema = clips_schema(labels)
    names = {name: clips[name] for name in clips.column_names}
    columns = [{**names, **values}[name] for name in schema.names]
    workspace.write_table(CLIPS, pa.Table.from_arrays(columns, schema=schema))


def test_other_features_of_the_same_clips_are_another_run_with_other_weights(workspace):
    first = execute_run(plan(workspace))
    before = workspace.read_bytes("runs/audio/42/model.safetensors")
    assert plan(workspace).finished() == first
    replace_features(workspace, "00000", "00001", "00002")
    assert plan(workspace).finished() is None
    metrics = execute_run(plan(workspace))
    assert not metrics["stages"]["audio"]["reused"]
    assert workspace.read_bytes("runs/audio/42/model.safetensors") != before


def test_features_that_were_made_again_and_came_out_the_same_are_the_same_run(workspace):
    key = plan(workspace).key
    store = FeatureStore(workspace, "audio", AUDIO)
    rows = list(store.rows())
    for part in store.parts():
        workspace.delete(part)
    workspace.delete("index")
    store.write(rows)
    assert plan(workspace).key == key


def test_an_encoder_does_not_depend_on_clips_that_it_does_not_see(workspace):
    execute_run(plan(workspace))
    replace_features(workspace, "00050")
    assert plan(workspace).finished() is None
    assert execute_run(plan(workspace))["stages"]["audio"]["reused"]


def test_where_media_lie_is_no_part_of_a_run_and_everything_else_of_the_corpus_is(workspace):
    key, clips = plan(workspace).key, workspace.clips()
    place = clips.schema.get_field_index("video")
    moved = pa.array([f"/elsewhere/{clip_id}.mp4" for clip_id in clips["clip_id"].to_pylist()])
    workspace.write_table(CLIPS, clips.set_column(place, clips.schema.field(place), moved))
    assert plan(workspace).key == key
    workspace.write_table(CLIPS, clips.set_column(1, clips.schema.field(1), [["train"] * clips.num_rows]))
    assert plan(workspace).key != key


@pytest.mark.parametrize(
    "labels",
    [
        [*EMOTION_LABELS[:-1], Label("Joy", 0, 100)],
        [*EMOTION_LABELS[1:], EMOTION_LABELS[0]],
        [*EMOTION_LABELS[:-1]],
    ],
    ids=["range", "order", "fewer"],
)
def test_labels_their_ranges_and_order_are_part_of_a_run(workspace, labels):
    key = plan(workspace).key
    with_labels(workspace, labels, {})
    assert labels_of(workspace.clips().schema) == tuple(labels)
    assert plan(workspace).key != key


def test_a_run_is_scored_by_its_own_labels_whatever_their_place_and_range_now(workspace):
    execute_run(plan(workspace))
    before = evaluate_single_run(workspace, "audio/42")
    extra = Label("Boredom")
    random = pa.chunked_array([np.random.default_rng(0).random(workspace.clips().num_rows)])
    reordered = [extra, *reversed(EMOTION_LABELS[:-1]), Label("Joy", 0, 100)]
    with_labels(workspace, reordered, {"Boredom": random})
    assert evaluate_single_run(workspace, "audio/42") == before
    assert load_model(workspace, "audio/42").description.labels == EMOTION_LABELS
    with_labels(workspace, [extra, *EMOTION_LABELS[:-1]], {})
    with pytest.raises(UserError, match="predicts Joy, which the corpus no longer has; .*Boredom"):
        evaluate_single_run(workspace, "audio/42")


def test_a_run_whose_clips_have_other_features_now_is_not_scored_but_refused_with_the_remedy(workspace):
    execute_run(plan(workspace))
    replace_features(workspace, "00050")
    evaluate_single_run(workspace, "audio/42")
    replace_features(workspace, "00001", "00040")
    with pytest.raises(UserError, match=r"audio of 2 clips \(.*emi-ray train -w .* audio --seed 42"):
        evaluate_single_run(workspace, "audio/42")


def test_training_opens_each_part_once(workspace, monkeypatch):
    store = FeatureStore(workspace, "audio", AUDIO)
    opened: list[str] = []
    open_table = Workspace.open_table

    def count(self, path, *rest):
        opened.append(path)
        return open_table(self, path, *rest)

    store.held.tidy()
    monkeypatch.setattr(Workspace, "open_table", count)
    plan(workspace).read_data()
    assert sorted(opened) == store.parts()


def test_a_recogniser_that_is_not_configured_changes_no_text_of_a_run(workspace):
    config = WorkspaceConfig(transcriber=ExtractorSettings(name="whisper", settings={"weights": "small"}))
    clips, recipe = workspace.clips(), load_recipe("text-finetuned")

    def recognise(fingerprint: str, weights: str, text: str) -> TranscriptStore:
        store = TranscriptStore(workspace, fingerprint)
        store.create({"extractor": "whisper", "settings": {"weights": weights, "language": None}})
        store.write({"00000": text})
        return store

    assert find_transcripts(workspace, config) is None
    small = recognise("aaaa", "small", "what was heard")
    before = read_inputs(clips, recipe, {}, find_transcripts(workspace, config))
    assert find_transcripts(workspace, WorkspaceConfig()) == small
    recognise("zzzz", "large", "what another heard")
    assert find_transcripts(workspace, config) == small
    assert read_inputs(clips, recipe, {}, find_transcripts(workspace, config)) == before
    with pytest.raises(UserError, match="several recognisers: aaaa .* zzzz"):
        find_transcripts(workspace, WorkspaceConfig())
    small.held.discard(small.held.record())
    small.write({"00000": "what was heard, corrected"})
    assert read_inputs(clips, recipe, {}, small)["text"] != before["text"]
