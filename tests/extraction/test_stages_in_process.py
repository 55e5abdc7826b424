"""The stages of a pipeline, one after the other in this process, without Ray."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from emi_ray.corpus.setup import init_workspace
from emi_ray.extraction.extract_stage import ExtractorTool
from emi_ray.extraction.pending import plan_work, store_of
from emi_ray.extraction.pipeline import Pipeline, plan_pipeline
from emi_ray.extraction.pools import Pool, plan_pools
from emi_ray.extraction.run_record import _stage as recorded_stage
from emi_ray.extraction.stage_chain import StageChain
from emi_ray.extraction.summary import ExtractionSummary, StageSummary
from emi_ray.runtime import Machine
from emi_ray.store.failures import read_failures
from emi_ray.store.feature_store import FeatureStore
from emi_ray.workspace import Workspace
from tests.cluster.test_deaths import new_workspace

SETTINGS = [
    "extractors.vision.name=tests.cluster.faulty:VisionModel",
    "extractors.text.name=tests.cluster.faulty:FaultyModel",
]


@pytest.fixture(params=[0, 2])
def pipeline(request, tmp_path) -> tuple[Pipeline, Machine]:
    workspace = new_workspace(tmp_path, {"bad": "bad", "crowd": "crowd 2"}, SETTINGS)
    return plan_pipeline(workspace, workspace.config(), ["vision", "text"]), Machine(2, request.param)


def run_here(pipeline: Pipeline, machine: Machine) -> ExtractionSummary:
    """As Ray Data does it, with one actor a stage."""
    pools = plan_pools(machine, pipeline.stages, pipeline.config.extraction)
    clips = pipeline.workspace.clips()
    table = plan_work(pipeline.workspace, clips, pipeline.specs, pipeline.transcriber).table
    stages = StageChain(
        [pipeline._builder(name, replace(pools[name], num_gpus=1), False) for name in pipeline.stages]
    )
    summary = ExtractionSummary(pools=pools, seconds=1.0)
    done = [summary.add_table(stages(table.slice(start, 8))) for start in range(0, table.num_rows, 8)]
    assert sorted(chain.from_iterable(done)) == sorted(clips["clip_id"].to_pylist())
    return summary


def test_each_stage_writes_its_features_and_tells_what_came_of_each_clip(pipeline):
    planned, machine = pipeline
    summary = run_here(planned, machine)
    assert {name: (stage.ok, stage.failed) for name, stage in summary.stages.items()} == {
        "decode": (26, 0),
        "vision": (25, 1),
        "text": (25, 1),
    }
    for modality, spec in planned.specs.items():
        store = store_of(planned.workspace, spec)
        assert len(store.clip_ids()) == 25
        (failure,) = read_failures(planned.workspace, [store]).to_pylist()
        assert (failure["clip_id"], failure["error"]) == ("bad", "this clip is bad"), modality
    (actor,) = summary.stages["text"].actors.values()
    assert (actor.clips, actor.restarts, actor.gpus) == (26, 0, ())


def test_what_has_no_duration_has_no_real_time_factor(pipeline):
    planned, machine = pipeline
    summary = run_here(planned, machine)
    assert summary.real_time_factor("text") is None
    assert summary.share_of_bare_speed("text") is None
    assert summary.bottleneck in summary.stages


def test_outcomes_are_counted_by_reason_whatever_their_numbers():
    summary = ExtractionSummary()
    rows = [("a", "ok", None), ("b", "failed", "took 3 s"), ("c", "failed", "took 4 s")]
    outcomes = [
        [
            {
                "stage": "decode",
                "status": "ok",
                "reason": None,
                "seconds": 1.0,
                "media_s": 2.0,
                "actor": ACTOR,
            },
            {"stage": "audio", "status": s, "reason": r, "seconds": 0.5, "media_s": 0.0, "actor": ACTOR},
        ]
        for _, s, r in rows
    ]
    summary.add_table(pa.table({"clip_id": [clip for clip, *_ in rows], "outcomes": outcomes}))
    audio = summary.stages["audio"]
    assert (audio.ok, audio.failed, audio.seconds, audio.media_s) == (1, 2, 1.5, 2.0)
    assert list(audio.reasons.values()) == [2]
    assert np.isclose(summary.real_time_factor("audio"), 0.75)


ACTOR = '["me", false, "10.0.0.1", 7, ["0"]]'


def on_gpu(pipeline: Pipeline) -> tuple[StageChain, list[pa.Table]]:
    """The models in one process, as on a GPU, and decoded batches of eight."""
    pools = plan_pools(Machine(2, 1), pipeline.stages, pipeline.config.extraction)
    decode, *models = [pipeline._builder(name, pools[name], False) for name in pipeline.stages]
    table = plan_work(pipeline.workspace, pipeline.workspace.clips(), pipeline.specs).table
    decoded = decode()(table)
    return StageChain(models), [decoded.slice(start, 8) for start in range(0, table.num_rows, 8)]


def test_one_batch_is_written_while_the_model_computes_the_next(pipeline, monkeypatch):
    planned, _ = pipeline
    stages, batches = on_gpu(planned)
    write, writers, both_write = FeatureStore.write, [], threading.Event()

    def wait_for_another(self: FeatureStore, rows: list, raw: bool = False) -> str | None:
        if self.modality == "vision":
            writers.append(len(rows))
            if len(writers) == 2:
                both_write.set()
            assert both_write.wait(20), "no other batch came through the model meanwhile"
        return write(self, rows, raw)

    monkeypatch.setattr(FeatureStore, "write", wait_for_another)
    with ThreadPoolExecutor(2) as threads:
        done = list(threads.map(stages, batches))
    assert [table["clip_id"].to_pylist() for table in done] == [b["clip_id"].to_pylist() for b in batches]
    summary = ExtractionSummary()
    for table in done:
        summary.add_table(table)
    assert {name: stage.ok for name, stage in summary.stages.items()} == {
        "decode": 26,
        "vision": 25,
        "text": 25,
    }
    for spec in planned.specs.values():
        assert len(store_of(planned.workspace, spec).clip_ids()) == 25


def test_what_cannot_be_written_is_told_of_all_clips_of_the_batch(pipeline, monkeypatch):
    planned, _ = pipeline
    stages, batches = on_gpu(planned)

    def is_full(self: FeatureStore, rows: list, raw: bool = False) -> str | None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FeatureStore, "write", is_full)
    outcomes = stages(batches[0])["outcomes"].to_pylist()
    assert [[entry["status"] for entry in row] for row in outcomes] == [["broken"]] * 8
    assert all("There is no space left" in row[0]["reason"] for row in outcomes)
    assert all(not store_of(planned.workspace, spec).parts() for spec in planned.specs.values())


def test_a_node_that_does_not_see_the_workspace_writes_nothing(pipeline):
    """Its mount is missing, and the folder would be made on its own disk."""
    planned, machine = pipeline
    pools = plan_pools(machine, planned.stages, planned.config.extraction)
    table = plan_work(planned.workspace, planned.workspace.clips(), planned.specs, planned.transcriber).table
    stages = StageChain([planned._builder(name, pools[name], False) for name in planned.stages])
    mounted = Path(planned.workspace.root)
    mounted.rename(mounted.with_name("elsewhere"))
    outcomes = stages(table.slice(0, 4))["outcomes"].to_pylist()
    assert {told[-1]["status"] for told in outcomes} == {"broken"}
    assert "emi_ray.yaml does not exist on this node" in outcomes[0][-1]["reason"]
    assert not mounted.exists()


def test_a_node_that_does_not_see_the_media_blames_no_clip(tmp_path):
    """Its mount is missing: the files of no clip are there, although the driver sees them."""
    media = tmp_path / "media"
    media.mkdir()
    rows = ["clip_id,split,audio"]
    for index in range(4):
        path = media / f"{index}.wav"
        path.touch()
        rows.append(f"{index},train,{path}")
    (tmp_path / "clips.csv").write_text("\n".join(rows))
    workspace = Workspace(str(tmp_path / "work"))
    init_workspace(workspace, "table", str(tmp_path / "clips.csv"), [])
    planned = plan_pipeline(workspace, workspace.config(), ["audio"])
    seen = tuple(str(path) for path in media.iterdir())[:3]
    table = plan_work(workspace, workspace.clips(), planned.specs).table
    pools = plan_pools(Machine(2, 0), planned.stages, planned.config.extraction)
    media.rename(tmp_path / "elsewhere")
    for paths, status in ((seen, "broken"), (seen[:2], "failed")):
        pipeline = replace(planned, seen_media=paths)
        stages = StageChain([pipeline._builder(name, pools[name], False) for name in pipeline.stages])
        told = [outcomes[-1] for outcomes in stages(table)["outcomes"].to_pylist()]
        stages._stages[0]._decoder.close()
        assert {each["status"] for each in told} == {status}
        assert ("does not exist on this node" in told[0]["reason"]) == (status == "broken")


def test_a_stage_is_busy_for_a_part_of_the_time_of_all_its_actors_whatever_their_number():
    four, two = (Pool(8, actors, 0.25, 0.0, 1) for actors in (4, 2))
    summary = ExtractionSummary(seconds=100.0, pools={"audio": two})
    summary.add_pass({"audio": four}, 60.0)
    summary.add_pass({"audio": two}, 40.0)
    summary.stages["audio"] = StageSummary(seconds=4 * 60.0 + 2 * 40.0)
    assert summary.busy("audio") == pytest.approx(1.0)


def test_remarks_on_clips_that_are_ok_are_no_reasons_of_failures(pipeline):
    planned, machine = pipeline
    summary = run_here(planned, machine)
    summary.stages["vision"].add("ok", "2 frames were rotated", 3, 0.0)
    told = recorded_stage(summary, "vision")
    assert told["failures"] == {"this clip is bad": 1}
    assert told["remarks"] == {"2 frames were rotated": 3}


def test_remarks_of_an_extractor_are_counted(pipeline, monkeypatch):
    planned, machine = pipeline
    extract = ExtractorTool.__call__

    def with_a_remark(self, clips):
        return [replace(found, remarks=["the text is cut"]) for found in extract(self, clips)]

    monkeypatch.setattr(ExtractorTool, "__call__", with_a_remark)
    assert run_here(planned, machine).stages["text"].remarks == {"the text is cut": 25}
