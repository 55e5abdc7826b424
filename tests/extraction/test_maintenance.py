"""Raw parts are merged into readable parts during a run and at its end."""

import os
import time

import numpy as np
import psutil
import pyarrow as pa
import pytest

from emi_ray.errors import EmiRayError
from emi_ray.extraction import maintenance
from emi_ray.extraction.maintenance import LOOK_EVERY_S, PartMaintenance, _merge, _Merges, tidy_up
from emi_ray.extraction.passes import Passes
from emi_ray.extraction.pending import store_of
from emi_ray.extraction.pipeline import Pipeline, plan_pipeline
from emi_ray.extraction.run import extract
from emi_ray.store import part_merging
from emi_ray.store.feature_layout import ClipFeatures
from emi_ray.store.feature_store import FeatureStore
from emi_ray.store.part_listing import is_raw
from emi_ray.store.parts import PartFolder
from tests.cluster.test_deaths import new_workspace
from tests.store.test_repeated_rows import rows_written

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session")]


def write_raw(pipeline: Pipeline, first: int, count: int) -> FeatureStore:
    spec = pipeline.specs["text"]
    store = store_of(pipeline.workspace, spec)
    store.create(spec.identity, 2)
    for index in range(first, first + count):
        values = np.full((1, 2), index, np.float16)
        store.write([ClipFeatures(f"c{index:02d}", values, np.zeros(1, np.float32), {})], raw=True)
    return store


def test_raw_parts_are_merged_once_they_are_many_and_all_of_them_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(part_merging, "PARTS_OF_A_WRITER", 4)
    workspace = new_workspace(tmp_path, {}, [])
    pipeline, now = plan_pipeline(workspace, workspace.config(), ["text"]), [LOOK_EVERY_S]
    beside = PartMaintenance(pipeline, clock=lambda: now[0])
    store = write_raw(pipeline, 0, 3)
    beside.look()
    assert not beside._merges.parts
    write_raw(pipeline, 3, 2)
    beside.look()
    assert not beside._merges.parts, "it looks too often"
    now[0] += LOOK_EVERY_S
    beside.look()
    assert len(beside._merges.parts) == 5
    write_raw(pipeline, 5, 1)
    beside.finish()
    assert not [path for path in store.parts() if is_raw(path)]
    assert {row.clip_id: row.values[0, 0] for row in store.rows()} == {f"c{i:02d}": i for i in range(6)}


def test_no_more_merges_run_at_once_than_allowed_and_none_is_forgotten(tmp_path):
    workspace = new_workspace(tmp_path, {}, [])
    store = write_raw(plan_pipeline(workspace, workspace.config(), ["text"]), 0, 6)
    parts = sorted(store.parts())
    merges = _Merges(_merge, num_cpus=1)
    merges.add(store.held, [parts[:2], parts[2:4], parts[4:]])
    merges.start()
    assert len(merges._running) == 1
    assert merges.parts == set(parts)
    merges.run_all()
    assert len(store.parts()) == 3
    assert {row.clip_id for row in store.rows()} == {f"c{i:02d}" for i in range(6)}
    left = sorted(store.parts())
    merges.add(store.held, [["features/none/part-0.parquet", "features/none/part-1.parquet"], left])
    with pytest.raises(EmiRayError):
        merges.run_all()
    assert len(store.parts()) == 1, "a merge that fails does not prevent the next"


def test_of_repeated_rows_those_that_readers_saw_are_left_before_merges_change_the_order(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(part_merging, "PART_ROWS", 8)
    workspace = new_workspace(tmp_path, {}, [])
    pipeline = plan_pipeline(workspace, workspace.config(), ["text"])
    store = write_raw(pipeline, 0, 44)
    store.held.merge(store.parts()[:8])
    full, *_ = (path for path in store.parts() if not is_raw(path))
    again = store.write([ClipFeatures("c00", np.full((1, 2), 99, np.float16), np.zeros(1, np.float32), {})])
    for path, name in ((full, "part-y"), (again, "part-z")):  # behind all that is merged now
        os.rename(workspace.path(path), workspace.path(f"{store.folder}/{name}.parquet"))
    before = {row.clip_id: row.values[0, 0] for row in store.rows()}
    tidy_up(pipeline)
    assert {row.clip_id: row.values[0, 0] for row in store.rows()} == before
    assert sorted(rows_written(store)) == sorted(before)


def test_a_store_whose_parts_repeat_clips_is_mended_by_the_next_extraction(tmp_path):
    workspace = new_workspace(tmp_path, {}, [])
    pipeline = plan_pipeline(workspace, workspace.config(), ["text"])
    store = write_raw(pipeline, 0, 4)
    table = pa.concat_tables(store.tables())
    store.held.merge(store.parts())
    workspace.write_table(store.parts()[0], pa.concat_tables([table, table]))
    assert len(rows_written(store)) == 8
    tidy_up(pipeline)
    assert sorted(rows_written(store)) == [f"c{i:02d}" for i in range(4)]
    assert store.held.record()["clip_id"].to_pylist() == rows_written(store)


def test_merges_that_run_when_a_run_fails_end_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(maintenance, "STOP_WITHIN_S", 0.2)
    begun = tmp_path / "begun"

    def never_done(folder: PartFolder, parts: list[str]) -> None:
        begun.write_text(str(os.getpid()))
        time.sleep(60)

    merges = _Merges(never_done, num_cpus=0)
    merges.add(None, [["first"], ["second"]])
    merges.start()
    for _ in range(200):
        if begun.exists() and begun.read_text():
            break
        time.sleep(0.1)
    running = psutil.Process(int(begun.read_text()))
    merges.stop()
    assert not merges.parts
    running.wait(20)


def test_a_run_that_fails_stops_its_merges(tmp_path, monkeypatch):
    def failing(self, work):
        raise EmiRayError("a stage cannot work")

    stopped = []
    monkeypatch.setattr(Passes, "run", failing)
    monkeypatch.setattr(PartMaintenance, "stop", lambda self: stopped.append(self))
    workspace = new_workspace(tmp_path, {"a": "word"}, ["extraction.measure=false"])
    with pytest.raises(EmiRayError, match="cannot work"):
        extract(workspace, workspace.config(), ["text"])
    assert len(stopped) == 1
