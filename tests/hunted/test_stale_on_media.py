"""The pipeline's stages one after the other in this process, without Ray."""

import csv
import shutil
from pathlib import Path

import pytest

from emi_ray.corpus.setup import init_workspace
from emi_ray.extraction import decode_stage
from emi_ray.extraction.decode_stage import Decode
from emi_ray.extraction.extract_stage import Extract
from emi_ray.extraction.maintenance import tidy_up
from emi_ray.extraction.pending import Work, plan_work, store_of
from emi_ray.extraction.pipeline import Pipeline, plan_pipeline
from emi_ray.extraction.pools import Pool
from emi_ray.extraction.watchdog import Limits
from emi_ray.store.failures import read_failures
from emi_ray.workspace import Workspace

LIMITS = Limits(120.0, 2 << 30)
POOL = Pool(batch_size=8, max_actors=1, num_cpus=1, num_gpus=0, threads=1)
MODALITIES = ["audio", "text"]


def run(workspace: Workspace) -> Work:
    """What a run does for what is to do; returns what that was."""
    pipeline = plan_pipeline(workspace, workspace.config(), MODALITIES)
    work = plan_work(workspace, workspace.clips(), pipeline.specs)
    work.discard_stale()
    if work.table.num_rows:
        _stages(pipeline, work)
    return work


def _stages(pipeline: Pipeline, work: Work) -> None:
    needs = {modality: spec.needs for modality, spec in pipeline.specs.items()}
    decode = Decode(pipeline.config.media, needs, False, 60.0, 2.0)
    batch = decode(work.table)
    decode._decoder.close()
    for modality, spec in pipeline.specs.items():
        keep = pipeline._needed_after(modality)
        batch = Extract(pipeline.workspace, spec, keep, POOL, LIMITS)(batch)
    statuses = {o["status"] for row in batch["outcomes"].to_pylist() for o in row}
    assert "broken" not in statuses, batch["outcomes"].to_pylist()


@pytest.fixture
def rows(demo_corpus: Path, tmp_path: Path) -> list[dict[str, str]]:
    with (demo_corpus / "clips.csv").open() as stream:
        rows = list(csv.DictReader(stream))[:4]
    for row in rows:
        row["video"] = shutil.copy(demo_corpus / row["video"], tmp_path / f"{row['clip_id']}.mp4")
        row["transcript"] = "what a lovely day"
    return rows


def write(rows: list[dict[str, str]], tmp_path: Path) -> Workspace:
    workspace = Workspace(str(tmp_path / "work"))
    with (tmp_path / "clips.csv").open("w") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    init_workspace(workspace, "table", str(tmp_path / "clips.csv"), [])
    return workspace


def contents(workspace: Workspace) -> dict[str, dict[str, bytes]]:
    specs = plan_pipeline(workspace, workspace.config(), MODALITIES).specs
    return {
        m: {row.clip_id: row.values.tobytes() for row in store_of(workspace, s).rows()}
        for m, s in specs.items()
    }


def test_only_what_was_made_of_other_inputs_is_made_anew(rows, tmp_path):
    late = Path(rows[3]["video"]).rename(tmp_path / "late.mp4")
    workspace = write(rows, tmp_path)
    run(workspace)
    before = contents(workspace)
    first, second, third, fourth = (row["clip_id"] for row in rows)
    assert read_failures(workspace)["clip_id"].to_pylist() == [fourth]
    shutil.copy(rows[2]["video"], rows[0]["video"])
    rows[1]["transcript"] = "no, it is not"
    late.rename(rows[3]["video"])
    work = run(write(rows, tmp_path))
    todo = {r["clip_id"]: (r["todo_audio"], r["todo_text"]) for r in work.table.to_pylist()}
    assert todo == {first: (1, None), second: (None, 1), fourth: (2, None)}
    after = contents(workspace)
    assert after["audio"][first] == before["audio"][third]
    assert after["audio"][second] == before["audio"][second]
    assert after["text"][second] != before["text"][second]
    assert fourth in after["audio"]
    assert read_failures(workspace).num_rows == 0
    assert run(workspace).table.num_rows == 0


@pytest.mark.usefixtures("ray_session")
def test_upkeep_leaves_the_attempts_of_a_clip_and_its_features_as_they_are(rows, tmp_path):
    Path(rows[0]["video"]).write_text("no film")
    workspace = write(rows, tmp_path)
    pipeline = plan_pipeline(workspace, workspace.config(), MODALITIES)
    for _ in range(3):
        work = plan_work(workspace, workspace.clips(), pipeline.specs, retry_failed=True)
        _stages(
            pipeline, work if work.table.num_rows else plan_work(workspace, workspace.clips(), pipeline.specs)
        )
        tidy_up(pipeline)
    assert read_failures(workspace)["attempt"].to_pylist() == [3]
    assert {m: len(held) for m, held in contents(workspace).items()} == {"audio": 3, "text": 4}


def test_a_file_that_changes_while_it_is_decoded_is_done_again(rows, tmp_path, monkeypatch):
    workspace = write(rows[:2], tmp_path)

    def content_of(stamp, clip):
        if clip["clip_id"] == rows[0]["clip_id"]:
            shutil.copy(rows[2]["video"], rows[0]["video"])
        return original(stamp, clip)

    original = decode_stage.content_of
    monkeypatch.setattr(decode_stage, "content_of", content_of)
    run(workspace)
    monkeypatch.undo()
    assert run(workspace).table["clip_id"].to_pylist() == [rows[0]["clip_id"]]
    assert run(workspace).table.num_rows == 0
