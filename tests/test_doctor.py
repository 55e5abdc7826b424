"""`emi-ray doctor` reports what would make a run fail."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from emi_ray.config import (
    ExtractorSettings,
    FaceSettings,
    MediaSettings,
    WorkspaceConfig,
    built_in_extractors,
)
from emi_ray.doctor import examine
from emi_ray.doctor.inputs import (
    Chosen,
    check_config,
    check_corpus,
    check_extractor,
    check_face_detector,
    check_inputs,
    check_media,
    choose_extractors,
    count_ready,
)
from emi_ray.doctor.machine import (
    NodeReport,
    check_disk,
    check_gpu,
    check_nodes,
    check_versions,
    estimate_bytes,
    installed_versions,
    report_node,
)
from emi_ray.schema import clips_schema
from emi_ray.store.feature_layout import ClipFeatures
from emi_ray.store.feature_store import FeatureStore
from emi_ray.workspace import CLIPS, CONFIG, Workspace


def clips_table(**columns: list) -> pa.Table:
    number = len(next(iter(columns.values())))
    schema = clips_schema([])
    given = {"clip_id": [f"c{i}" for i in range(number)], "split": ["test"] * number, **columns}
    return pa.table(
        [pa.array(given.get(field.name, [None] * number), field.type) for field in schema], schema=schema
    )


def chosen(modality: str, name: str, **settings) -> Chosen:
    found, wrong = choose_extractors({modality: ExtractorSettings(name=name, settings=settings)})
    assert not wrong
    return found[modality]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    video = tmp_path / "a.mp4"
    video.touch()
    workspace = Workspace(str(tmp_path / "work"))
    workspace.write_config(WorkspaceConfig())
    workspace.write_table(CLIPS, clips_table(video=[str(video)] * 2, transcript=["yes", "no"]))
    return workspace


def statuses(workspace: Workspace, overrides=()) -> dict[str, str]:
    return {check.name: check.status for check in examine(workspace, overrides)}


def test_a_sound_workspace_has_no_problem(workspace):
    found = statuses(workspace)
    assert set(found.values()) == {"ok"}
    assert {"versions", "settings", "corpus", "media", "text", "audio input", "faces", "gpu", "disk"} <= set(
        found
    )


def test_a_folder_that_is_no_workspace_is_a_problem_and_ends_the_checks(tmp_path):
    checks = list(examine(Workspace(str(tmp_path))))
    assert checks[-1].status == "problem"
    assert "emi-ray init" in checks[-1].message


def test_a_wrong_setting_is_named(workspace):
    workspace.write_text(CONFIG, "media: {frame_rate: 3}")
    check = check_config(workspace)
    assert check.status == "problem"
    assert "frame_rate_hz" in check.message


def test_a_corpus_that_is_not_there_is_a_problem(workspace):
    workspace.delete(CLIPS)
    assert check_corpus(workspace).status == "problem"
    workspace.write_bytes(CLIPS, b"no parquet")
    assert "is damaged" in check_corpus(workspace).message
    workspace.write_table(CLIPS, clips_table(video=[]))
    assert "no clip" in check_corpus(workspace).message


def test_media_that_are_not_there_are_counted_and_one_is_named(tmp_path):
    there = tmp_path / "a.mp4"
    there.touch()
    assert check_media(clips_table(video=[str(there)])).status == "ok"
    some = check_media(clips_table(video=[str(there), str(tmp_path / "b.mp4"), None]))
    assert (some.status, some.message.split(" do not")[0]) == ("warning", "1 of 2 files of the first 3 clips")
    assert some.message.endswith("b.mp4")
    assert check_media(clips_table(video=[str(tmp_path / "b.mp4")])).status == "problem"


def test_an_unknown_extractor_is_told_with_the_choices(workspace):
    found, wrong = choose_extractors({"text": ExtractorSettings(name="gte-bass")})
    assert not found
    assert "did you mean 'gte-base'" in wrong[0].message
    assert statuses(workspace, ["extractors.text.name=gte-bass"])["text"] == "problem"


def test_weights_that_cannot_be_had_are_a_problem(tmp_path):
    check = check_extractor("text", chosen("text", "gte-base", weights=str(tmp_path)))
    assert check.status == "problem"
    assert "config.json" in check.message


def test_a_tracker_whose_package_is_missing_is_a_problem_before_the_training(workspace, monkeypatch):
    assert statuses(workspace, ["tracking=[tensorboard]"])["tracking"] == "ok"
    monkeypatch.setattr("emi_ray.tracking.importlib.util.find_spec", lambda name: None)
    assert statuses(workspace, ["tracking=[tensorboard]"])["tracking"] == "problem"


def test_an_openface_binary_that_is_not_there_is_a_problem():
    check = check_extractor("motion", chosen("motion", "openface", binary="/nowhere/FeatureExtraction"))
    assert check.status == "problem"
    assert "FeatureExtraction" in check.message


def test_openface_without_csv_files_is_a_warning():
    clips = clips_table(video=["a.mp4", "b.mp4"], openface_csv=["a.csv", None])
    extractor = chosen("motion", "openface")
    assert count_ready(extractor, clips) == 1
    check = check_inputs("motion", extractor, clips)
    assert (check.status, check.message.split(":")[0]) == ("warning", "1 of 2 clips have openface_csv")


def test_sound_is_taken_from_audio_or_video():
    clips = clips_table(video=["a.mp4", None], audio=[None, "b.wav"])
    assert check_inputs("audio", chosen("audio", "prosody"), clips).status == "ok"


def test_features_that_are_there_need_no_media(workspace):
    extractor, clips = chosen("audio", "prosody"), clips_table(transcript=["yes"])
    assert check_inputs("audio", extractor, clips).status == "warning"
    assert check_inputs("audio", extractor, clips, held=True).status == "ok"
    workspace.write_table(CLIPS, clips_table(transcript=["yes"]))
    store = FeatureStore(workspace, "audio", "imported")
    store.create({"extractor": "theirs"}, 2)
    store.write([ClipFeatures("c0", np.ones((1, 2)), np.zeros(1), {})])
    assert statuses(workspace)["audio input"] == "ok"


def test_a_face_detector_without_its_model_is_a_problem():
    assert check_face_detector(FaceSettings()).status == "ok"
    check = check_face_detector(FaceSettings(detector="yunet", yunet_model="/nowhere.onnx"))
    assert check.status == "problem"
    assert "yunet_model" in check.message


def test_a_gpu_is_missed_only_by_extractors_that_want_one():
    pretrained = {"text": chosen("text", "gte-base")}
    assert check_gpu({"text": chosen("text", "hashed-ngrams")}, 0).status == "ok"
    assert check_gpu(pretrained, 0).status == "warning"
    assert check_gpu(pretrained, 1).status == "ok"
    forced = check_gpu({"text": chosen("text", "gte-base", device="cuda")}, 0)
    assert forced.status == "problem"
    assert "extractors.text.settings.device" in forced.message


def test_space_is_clips_times_steps_times_size_times_two_bytes():
    media = MediaSettings(frame_rate_hz=6)
    assert estimate_bytes(100, chosen("vision", "dinov2-face"), media) == 100 * 60 * 768 * 2
    assert estimate_bytes(100, chosen("audio", "wav2vec2"), media) == 100 * 500 * 768 * 2
    assert estimate_bytes(100, chosen("text", "gte-base"), media) == 100 * 768 * 2
    assert estimate_bytes(100, chosen("motion", "openface"), media) == 100 * 300 * 23 * 2


def test_a_full_disk_is_a_problem_and_a_tight_one_a_warning():
    assert check_disk(99, 100).status == "problem"
    assert check_disk(150, 100).status == "warning"
    assert check_disk(1000, 100).status == "ok"
    assert check_disk(None, 100).status == "ok"


def test_versions_are_held_against_what_the_package_requires():
    required = ["torch==2.13.0", "numpy>=2.1", "PyYAML>=6", 'pytest>=8; extra == "dev"']
    good = {"torch": "2.13.0+cpu", "numpy": "2.4.6", "pyyaml": "6.0.3"}
    assert check_versions(good, required).status == "ok"
    old = check_versions({**good, "numpy": "1.26"}, required)
    assert old.status == "problem"
    assert "numpy 1.26 (needs >=2.1)" in old.message
    assert "torch is not installed" in check_versions({"numpy": "2.4.6", "pyyaml": "6"}, required).message


def test_a_node_of_other_versions_is_a_problem():
    local, problems = report_node(built_in_extractors())
    assert problems == ()
    assert local["ray"] == installed_versions()["ray"]
    nodes = [
        NodeReport("10.0.0.1", local),
        NodeReport("10.0.0.2", {**local, "ray": "2.9"}),
        NodeReport("10.0.0.3", local, ("gte-base: no weights",)),
    ]
    first, second, third = check_nodes(nodes, local)
    assert first.status == "ok"
    assert (second.status, second.message) == ("problem", f"ray 2.9 (here {local['ray']}).")
    assert (third.status, third.name) == ("problem", "node 10.0.0.3")


@pytest.mark.slow
def test_every_node_of_a_session_is_asked(workspace, ray_session):
    checks = list(examine(workspace, cluster=True))
    assert {check.status for check in checks} == {"ok"}
    assert [check.name.split()[0] for check in checks].count("node") == 1


def test_the_speech_recogniser_is_checked_too(workspace):
    workspace.write_table(CLIPS, clips_table(video=["a.mp4", None], transcript=["yes", None]))
    for settings, status, words in (
        (["transcriber.name=wisper"], "problem", "did you mean 'whisper'"),
        (["transcriber.name=whisper", "transcriber.settings.vadd=1"], "problem", "did you mean 'vad'"),
        (["transcriber.name=whisper"], "problem", "openai/whisper-small"),
    ):
        (found,) = [check for check in examine(workspace, settings) if check.name == "transcriber"]
        assert found.status == status
        assert words in found.message
    words = chosen("text", "hashed-ngrams")
    assert count_ready(words, workspace.clips()) == 1
    table = clips_table(video=["a.mp4", "b.mp4"], transcript=["yes", None])
    assert check_inputs("text", words, table).status == "warning"
    assert check_inputs("text", words, table, hears=True).status == "ok"
