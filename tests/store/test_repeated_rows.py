"""Two rows of a clip, which kills and repeated batches leave: readers use the first, and the others are removed."""

import os

import pyarrow as pa

from emi_ray.store import part_merging, parts
from emi_ray.store.feature_store import FeatureStore
from emi_ray.training.data.input_hashes import digests_of
from emi_ray.training.data.packed_reading import read_packed
from emi_ray.training.shared_features import num_bytes_of
from tests.store.test_parts import held, killed_after_deleting, row, write_many


def damaged(store: FeatureStore, num_parts: int = 4) -> dict[str, bytes]:
    """Write one part with two rows of each clip, as merges left them until 2026-11; the later rows are other ones."""
    before = write_many(store, num_parts)
    small = store.parts()
    again = store.write([row(clip_id, seed=1) for clip_id in before])
    tables = [store.workspace.read_table(part) for part in [*small, again]]
    store.workspace.write_tables(f"{store.folder}/part-damaged.parquet", tables[0].schema, tables)
    for part in [*small, again]:
        store.workspace.delete(part)
    return before


def rows_written(store: FeatureStore) -> list[str]:
    """The clips of all rows in the parts."""
    return [i for part in store.parts() for i in store.workspace.read_table(part)["clip_id"].to_pylist()]


def test_a_merge_keeps_of_each_clip_the_row_that_was_the_first_to_readers(store):
    for seed in range(4):
        store.write([row("a", seed), row(f"b{seed}")])
    before = held(store)
    store.held.merge(store.parts()[::-1])
    assert sorted(rows_written(store)) == sorted(before)
    assert held(store) == before
    record = store.held.record()
    assert record["clip_id"].to_pylist() == rows_written(store)
    assert record["digest"].to_pylist() == digests_of(store, pa.array(rows_written(store))).tolist()


def test_small_parts_beside_what_a_killed_merge_made_of_them_are_merged_without_repetition(
    store, monkeypatch
):
    before = write_many(store, 64)
    with killed_after_deleting(20, monkeypatch):
        store.held.merge(store.parts())
    assert len(store.parts()) == 45
    (group,) = part_merging.mergeable(store.held)
    store.held.merge(group)
    assert len(store.parts()) == 1
    assert sorted(rows_written(store)) == sorted(before)
    assert held(store) == before


def test_a_merge_of_parts_with_repetitions_inside_removes_them_a_row_group_at_a_time(store, monkeypatch):
    monkeypatch.setattr(parts, "GROUP_BYTES", 1000)
    before = damaged(store, 20)
    late = store.write([row("late")])
    store.held.merge(store.parts())
    assert late not in store.parts()
    assert sorted(rows_written(store)) == sorted([*before, "late"])
    assert held(store).items() > before.items()
    assert len(list(store.tables())) > 2


def test_of_two_rows_of_a_clip_in_one_part_the_first_is_read(store):
    before = damaged(store)
    assert len(rows_written(store)) == 2 * len(before)
    assert [found.clip_id for found in store.rows()] == list(before)
    assert held(store) == before
    clip_ids = pa.array([*before])
    packed = read_packed(store, clip_ids)
    assert {clip_id: packed.of(i).tobytes() for i, clip_id in enumerate(before)} == before
    assert packed.digests.tolist() == digests_of(store, clip_ids).tolist()
    assert num_bytes_of(store) == packed.values.nbytes


def test_a_part_that_repeats_its_own_clips_is_mended(store):
    damaged(store)
    store.write([row("000-0", seed=2), row("late")])
    before = held(store)
    for _ in range(2):
        store.held.tidy()
        assert sorted(rows_written(store)) == sorted(before)
        assert held(store) == before
        assert store.held.record()["clip_id"].to_pylist() == rows_written(store)


def test_a_removal_that_was_killed_and_is_repeated_loses_nothing(store, monkeypatch):
    """The part without the removed rows is then both a repetition of the old part and what that one becomes."""
    written = [store.write([row("a")]), store.write([row("a", seed=1), row("b")])]
    named = [f"{store.folder}/part-0{place}.parquet" for place in range(2)]
    for path, name in zip(written, named, strict=True):
        os.rename(store.workspace.path(path), store.workspace.path(name))
    before = held(store)
    with killed_after_deleting(0, monkeypatch):
        store.held.tidy()
    assert store.parts()[:2] == named
    assert rows_written(store) == ["a", "a", "b", "b"]
    monkeypatch.setattr(parts, "TABLES_AHEAD", 1)  # the old part first, then what was made of it
    store.held.tidy()
    assert rows_written(store) == ["a", "b"]
    assert held(store) == before
