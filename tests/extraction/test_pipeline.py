import csv
from pathlib import Path

import pytest

from emi_ray.corpus.setup import init_workspace
from emi_ray.errors import EmiRayError, UserError
from emi_ray.extraction.pending import store_of
from emi_ray.extraction.pipeline import plan_pipeline
from emi_ray.extraction.run import extract
from emi_ray.store.failures import read_failures
from emi_ray.store.feature_store import FeatureStore
from emi_ray.workspace import Workspace

pytestmark = pytest.mark.usefixtures("ray_session")

NUM_CLIPS = 6


@pytest.fixture(scope="module")
def table(demo_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six good clips and three bad ones."""
    folder = tmp_path_factory.mktemp("table")
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("this is no video")
    with (demo_corpus / "clips.csv").open() as stream:
        rows = list(csv.DictReader(stream))[:NUM_CLIPS]
    for row in rows:
        row["video"] = str(demo_corpus / row["video"])
        row["transcript"] = "what a lovely day"
    rows += [
        {"clip_id": name, "split": "train", "video": str(folder / f"{name}.mp4"), "transcript": "still here"}
        for name in ("empty", "text", "absent")
    ]
    with (folder / "clips.csv").open("w") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "clips.csv"


@pytest.fixture(scope="module")
def extracted(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = Workspace(str(tmp_path_factory.mktemp("workspace")))
    init_workspace(workspace, "table", str(table), [])
    extract(workspace, workspace.config())
    return workspace


def stores(workspace: Workspace) -> dict[str, FeatureStore]:
    return {
        m: store_of(workspace, spec) for m, spec in plan_pipeline(workspace, workspace.config()).specs.items()
    }


def contents(workspace: Workspace) -> dict[str, dict[str, bytes]]:
    return {m: {row.clip_id: row.values.tobytes() for row in s.rows()} for m, s in stores(workspace).items()}


def test_every_clip_is_in_the_store_or_quarantined_with_a_reason(extracted):
    ids = set(extracted.clips()["clip_id"].to_pylist())
    for modality, store in stores(extracted).items():
        failures = read_failures(extracted, [store])
        assert store.clip_ids() | set(failures["clip_id"].to_pylist()) == ids, modality
        assert not store.clip_ids() & set(failures["clip_id"].to_pylist())
        assert all(failures["error"].to_pylist())


def test_a_bad_file_costs_no_other_clip_and_no_other_modality(extracted):
    held = {modality: store.clip_ids() for modality, store in stores(extracted).items()}
    assert len(held["audio"]) == NUM_CLIPS
    assert held["text"] == set(extracted.clips()["clip_id"].to_pylist())
    reasons = {row["clip_id"]: row["error"] for row in read_failures(extracted).to_pylist()}
    assert "empty" in reasons["empty"]
    assert "not a media file" in reasons["text"]


def test_what_is_done_is_not_done_again(extracted):
    before = {path: extracted.read_bytes(path) for path in extracted.files("features", recursive=True)}
    summary = extract(extracted, extracted.config())
    assert summary.clips == 0
    assert summary.already_done == NUM_CLIPS + 3
    assert before == {
        path: extracted.read_bytes(path) for path in extracted.files("features", recursive=True)
    }


def test_a_half_finished_store_is_completed_to_the_same_bytes(extracted, table, tmp_path):
    workspace = Workspace(str(tmp_path))
    init_workspace(workspace, "table", str(table), [])
    extract(workspace, workspace.config(), ["audio"])
    for part in stores(workspace)["audio"].parts()[:1]:
        workspace.delete(part)
    extract(
        workspace, workspace.config(["extraction.rows_per_block=2", "extraction.stages.audio.batch_size=1"])
    )
    assert contents(workspace) == contents(extracted)


def test_a_retry_counts_its_attempts(extracted):
    summary = extract(extracted, extracted.config(), ["audio"], retry_failed=True)
    assert summary.clips == 3
    audio = stores(extracted)["audio"]
    assert set(read_failures(extracted, [audio])["attempt"].to_pylist()) == {2}


def test_a_stage_that_cannot_work_ends_the_run_with_its_reason(table, tmp_path):
    workspace = Workspace(str(tmp_path))
    init_workspace(workspace, "table", str(table), [])
    workspace.write_text("features/audio", "a file where the store's folder must be")
    with pytest.raises(EmiRayError, match="The audio stage cannot work: .*features/audio"):
        extract(workspace, workspace.config(), ["audio"])


def test_a_face_detector_that_is_not_there_is_named_before_anything_starts(table, tmp_path):
    workspace = Workspace(str(tmp_path))
    init_workspace(workspace, "table", str(table), [])
    config = workspace.config(["media.faces.detector=yunet", "media.faces.yunet_model=/nowhere.onnx"])
    with pytest.raises(UserError, match="nowhere"):
        extract(workspace, config, ["vision"])


def test_an_extractor_that_is_not_there_is_named_with_the_nearest(extracted):
    with pytest.raises(UserError, match=r"extractors\.audio\.name = 'prosodi': did you mean 'prosody'"):
        extract(extracted, extracted.config(["extractors.audio.name=prosodi"]))
