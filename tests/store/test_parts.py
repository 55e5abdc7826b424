"""Parts of a store: an index that is never trusted, rows that leave, small parts that become few."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emi_ray.schema import Origin
from emi_ray.store import part_merging, parts
from emi_ray.store.feature_layout import ClipFeatures, steps_of
from emi_ray.store.feature_store import FeatureStore
from emi_ray.workspace import Workspace


def row(clip_id: str, seed: int = 0) -> ClipFeatures:
    random = np.random.default_rng([seed, *clip_id.encode()])
    num_steps = int(random.integers(1, 6))
    values = random.normal(size=(num_steps, 4)).astype(np.float16)
    return ClipFeatures(clip_id, values, np.arange(num_steps, dtype=np.float32), {}, Origin(f"s{seed}", "st"))


def held(store: FeatureStore) -> dict[str, bytes]:
    return {found.clip_id: found.values.tobytes() for found in store.rows()}


def write_many(store: FeatureStore, num_parts: int, per_part: int = 2) -> dict[str, bytes]:
    for index in range(num_parts):
        store.write([row(f"{index:03d}-{place}") for place in range(per_part)])
    return held(store)


@contextmanager
def killed_after_deleting(num_files: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kill what the ``with`` block does when it is about to delete one more file."""
    delete, deleted = Workspace.delete, []

    def die(self: Workspace, path: str) -> None:
        if len(deleted) == num_files:
            raise KeyboardInterrupt
        deleted.append(path)
        delete(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(Workspace, "delete", die)
        with pytest.raises(KeyboardInterrupt):
            yield


def opened(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of the Parquet files that are opened from now on."""
    paths: list[str] = []
    open_table, read_table = Workspace.open_table, Workspace.read_table
    monkeypatch.setattr(
        Workspace,
        "open_table",
        lambda self, path, *rest: (paths.append(path), open_table(self, path, *rest))[1],
    )
    monkeypatch.setattr(
        Workspace,
        "read_table",
        lambda self, path, *rest: (paths.append(path), read_table(self, path, *rest))[1],
    )
    return paths


def test_with_an_index_no_part_is_opened_to_tell_what_is_done(store, monkeypatch):
    before = write_many(store, 20)
    store.held.tidy()
    paths = opened(store, monkeypatch)
    assert store.clip_ids() == set(before)
    assert paths == ["index/features/audio/0123456789ab.parquet"]


def test_an_index_is_not_trusted_against_the_parts(store):
    write_many(store, 12)
    store.held.tidy()
    first, second, third, *_ = store.parts()
    gone = set(store.workspace.read_table(first, ["clip_id"])["clip_id"].to_pylist())
    store.workspace.delete(first)
    changed = store.workspace.read_table(second)
    store.workspace.write_table(second, changed.slice(1))
    gone.add(changed["clip_id"][0].as_py())
    store.write([row("new")])
    everyone = {f"{index:03d}-{place}" for index in range(12) for place in range(2)}
    assert store.clip_ids() == (everyone - gone) | {"new"}
    store.workspace.write_bytes("index/features/audio/0123456789ab.parquet", b"this is no Parquet")
    assert store.clip_ids() == (everyone - gone) | {"new"}
    assert third in store.parts()


def test_merged_parts_hold_the_same_rows(store, monkeypatch):
    monkeypatch.setattr(part_merging, "PART_ROWS", 20)
    before = write_many(store, 40)
    groups = part_merging.mergeable(store.held)
    for group in groups:
        store.held.merge(group)
    assert len(store.parts()) <= 5
    assert held(store) == before
    assert part_merging.mergeable(store.held) == []


def test_few_small_parts_are_left_as_they_are(store):
    write_many(store, part_merging.MERGE_FROM - 1)
    assert part_merging.mergeable(store.held) == []


def test_a_merge_that_was_killed_before_it_removed_the_old_parts_loses_and_repeats_nothing(
    store, monkeypatch
):
    before = write_many(store, 4)
    monkeypatch.setattr(Workspace, "delete", lambda self, path: None)
    store.held.merge(store.parts())
    monkeypatch.undo()
    assert len(store.parts()) == 5
    assert held(store) == before
    store.held.tidy()
    assert held(store) == before
    assert store.held.record().num_rows == len(before)


def test_rows_leave_and_others_stay_as_they_are(store):
    before = write_many(store, 5)
    record = store.held.record()
    doomed = ["000-0", "000-1", "003-1"]
    store.held.discard(record.filter(pa.array([i in doomed for i in record["clip_id"].to_pylist()])))
    assert held(store) == {clip_id: value for clip_id, value in before.items() if clip_id not in doomed}


def test_what_is_merged_while_it_is_read_costs_no_row(store, monkeypatch):
    monkeypatch.setattr(parts, "TABLES_AHEAD", 1)
    before = write_many(store, 12)
    seen = []
    for index, table in enumerate(store.tables(["clip_id", "num_steps", "features"])):
        seen += table["clip_id"].to_pylist()
        if index == 2:
            store.held.merge(store.parts())
    assert sorted(seen) == sorted(before)


def test_large_parts_are_read_a_row_group_at_a_time(store, monkeypatch):
    monkeypatch.setattr(parts, "GROUP_BYTES", 2000)
    before = write_many(store, 40)
    store.held.merge(store.parts())
    sizes = [table.num_rows for table in store.tables()]
    assert len(sizes) > 2
    assert sum(sizes) == len(before)
    assert held(store) == before


def test_parts_of_the_layout_before_are_read_and_merged(store):
    values = np.arange(24, dtype=np.float16).reshape(6, 4)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 4)
    old = pa.table(
        {
            "clip_id": ["a", "b"],
            "num_steps": pa.array([2, 4], pa.int32()),
            "features": pa.LargeListArray.from_arrays(pa.array([0, 2, 6]), vectors),
            "timestamps_s": pa.array([[0.0, 1.0], [0.0, 1.0, 2.0, 3.0]], pa.list_(pa.float32())),
            "arousal": pa.array([[1.0, 2.0], [3.0, 4.0, 5.0, 6.0]], pa.list_(pa.float32())),
        }
    )
    pq.write_table(old, store.workspace.path(f"{store.folder}/part-old.parquet"))
    found = list(store.rows())
    np.testing.assert_array_equal(found[1].values, values[2:])
    np.testing.assert_array_equal(found[1].extras["arousal"], [3, 4, 5, 6])
    (table,) = store.tables(["clip_id", "num_steps", "features"])
    np.testing.assert_array_equal(steps_of(table.slice(1)), values[2:])
    digests = store.held.record()["digest"].to_pylist()
    store.held.merge(store.parts())
    assert store.held.record()["digest"].to_pylist() == digests
    assert [r.values.tobytes() for r in store.rows()] == [r.values.tobytes() for r in found]


def test_equal_features_have_equal_digests_and_others_do_not(store):
    store.write([row("a"), row("b")])
    before = dict(
        zip(*[store.held.record()[name].to_pylist() for name in ("clip_id", "digest")], strict=True)
    )
    store.held.discard(store.held.record())
    store.write([row("a", seed=1)])
    store.write([row("b")])
    after = dict(zip(*[store.held.record()[name].to_pylist() for name in ("clip_id", "digest")], strict=True))
    assert before["a"] != after["a"]
    assert before["b"] == after["b"]


def test_a_writer_merges_its_parts_whenever_they_are_many(store, monkeypatch):
    monkeypatch.setattr(part_merging, "PARTS_OF_A_WRITER", 4)
    filling = part_merging.Filling(store.held)
    for index in range(10):
        filling.add(store.write([row(f"{index}")]), 10)
    assert len(store.parts()) == 4
    assert sorted(held(store)) == [str(index) for index in range(10)]


def test_a_merge_that_is_repeated_after_a_crash_ends_it(store, monkeypatch):
    before, old = write_many(store, 4), store.parts()
    with killed_after_deleting(1, monkeypatch):
        store.held.merge(old)
    store.held.merge(old)
    assert len(store.parts()) == 1
    assert held(store) == before
