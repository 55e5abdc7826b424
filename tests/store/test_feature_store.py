import datasets
import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from emi_ray import read_features
from emi_ray.config import WorkspaceConfig
from emi_ray.errors import UserError
from emi_ray.store.failures import Failure, failure_parts, read_failures, write_failures
from emi_ray.store.feature_layout import ClipFeatures, steps_of
from emi_ray.store.feature_store import FeatureStore, find_store
from emi_ray.store.part_listing import is_raw
from emi_ray.store.part_merging import mergeable
from emi_ray.workspace import Workspace


def features(clip_id: str, num_steps: int = 3, feature_dim: int = 4) -> ClipFeatures:
    generator = np.random.default_rng(num_steps)
    values = generator.normal(size=(num_steps, feature_dim)).astype(np.float16)
    stamps = np.arange(num_steps, dtype=np.float32) * 0.02
    return ClipFeatures(clip_id, values, stamps, {"arousal": stamps + 1})


@pytest.fixture
def store(tmp_path):
    store = FeatureStore(Workspace(str(tmp_path)), "audio", "0123456789ab")
    store.create({"extractor": "prosody"}, feature_dim=4)
    return store


def test_features_come_back_bit_for_bit(store):
    written = [features("b", 3), features("a", 1)]
    store.write(written)
    for before, after in zip(written, store.rows(), strict=True):
        assert before.clip_id == after.clip_id
        assert before.values.tobytes() == after.values.tobytes()
        np.testing.assert_array_equal(before.timestamps_s, after.timestamps_s)
        np.testing.assert_array_equal(before.extras["arousal"], after.extras["arousal"])


def test_the_same_clips_written_twice_stand_once(store):
    store.write([features("a"), features("b")])
    store.write([features("b"), features("a")])
    assert len(store.parts()) == 1


def test_a_clip_in_two_parts_is_read_once(store):
    store.write([features("a"), features("b")])
    store.write([features("b"), features("c")])
    assert sorted(row.clip_id for row in store.rows()) == ["a", "b", "c"]
    assert store.clip_ids() == {"a", "b", "c"}


def test_steps_flatten_in_clip_order(store):
    rows = [features("a", 2), features("b", 3)]
    store.write(rows)
    (table,) = store.tables()
    np.testing.assert_array_equal(steps_of(table), np.concatenate([row.values for row in rows]))
    np.testing.assert_array_equal(steps_of(table.slice(1)), rows[1].values)


def test_duckdb_and_pandas_read_the_files_without_us(store):
    store.write([features("a", 2)])
    pattern = store.workspace.path(f"{store.folder}/*.parquet")
    (row,) = duckdb.sql(f"select clip_id, num_steps, features[(2 - 1) * 4 + 4] from '{pattern}'").fetchall()
    assert row == ("a", 2, pytest.approx(float(features("a", 2).values[1, 3])))
    frame = pd.read_parquet(store.workspace.path(store.parts()[0]))
    np.testing.assert_array_equal(frame["features"][0].reshape(2, 4), features("a", 2).values)


def test_datasets_reads_the_files_without_us(store):
    store.write([features("a", 2)])
    store.held.merge([store.write([features("b", 3)], raw=True)])
    files = [store.workspace.path(part) for part in store.parts()]
    cache = store.workspace.path("cache")
    read = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=cache)
    for row in read.with_format("numpy"):
        expected = features(row["clip_id"], int(row["num_steps"])).values
        np.testing.assert_array_equal(np.asarray(row["features"]).reshape(-1, 4), expected)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_raw_parts_hold_the_same_and_merging_makes_them_like_all_others(store, dtype):
    store.settle_precision(dtype)
    rows = [features("a", 2), features("b", 3)]
    listed = store.write(rows)
    (expected,) = store.tables()
    record = store.held.record().drop_columns("part")
    store.workspace.delete(listed)
    raw = store.write(rows, raw=True)
    assert is_raw(raw)
    (table,) = store.tables()
    assert table.equals(expected)
    assert store.held.record().drop_columns("part").equals(record)
    (group,) = mergeable(store.held)
    store.held.merge(group)
    (merged,) = store.parts()
    assert not is_raw(merged)
    assert pq.read_table(store.workspace.path(merged)).schema.field("features") == expected.schema.field(
        "features"
    )
    (table,) = store.tables()
    assert table.equals(expected)


def test_other_readers_pass_over_raw_parts_instead_of_failing(store):
    store.write([features("a", 2)])
    store.write([features("b", 3)], raw=True)
    folder = store.workspace.path(store.folder)
    assert pd.read_parquet(folder)["clip_id"].tolist() == ["a"]
    found = duckdb.sql(f"select clip_id from '{folder}/*.parquet'").fetchall()
    assert found == [("a",)]
    assert store.clip_ids() == {"a", "b"}


def test_a_batch_that_is_repeated_after_its_raw_part_was_merged_stands_once(store):
    rows = [features("a", 2), features("b", 3)]
    store.held.merge([store.write(rows, raw=True)])
    store.write(rows, raw=True)  # as by a process that was killed before it could say that it had written
    assert [row.clip_id for row in store.rows()] == ["a", "b"]
    for group in mergeable(store.held):
        store.held.merge(group)
    store.held.tidy()
    (table,) = store.tables()
    assert table["clip_id"].to_pylist() == store.held.record()["clip_id"].to_pylist() == ["a", "b"]
    assert not [path for path in store.parts() if is_raw(path)]


def test_a_failure_stands_until_the_clip_has_features(store):
    failures = [
        Failure("a", "audio", store.fingerprint, "media", "broken"),
        Failure("b", "audio", store.fingerprint, "missing", "no audio stream"),
    ]
    write_failures(store.workspace, failures)
    assert read_failures(store.workspace)["clip_id"].to_pylist() == ["a", "b"]
    store.write([features("a")])
    assert read_failures(store.workspace)["clip_id"].to_pylist() == ["b"]


def test_the_latest_attempt_of_a_failure_counts(store):
    for attempt in (1, 2):
        write_failures(
            store.workspace, [Failure("a", "audio", store.fingerprint, "media", "broken", attempt)]
        )
    assert read_failures(store.workspace, [store])["attempt"].to_pylist() == [2]


def test_a_merge_keeps_the_failure_of_each_attempt(store):
    for attempt in (1, 2, 3):
        for clip_id in "ab":
            failure = Failure(clip_id, "audio", store.fingerprint, "media", f"try {attempt}", attempt)
            write_failures(store.workspace, [failure])
    folder = failure_parts(store)
    folder.merge(folder.paths())
    record = folder.record()
    assert len(folder.paths()) == 1
    told = zip(record["clip_id"].to_pylist(), record["attempt"].to_pylist(), strict=True)
    assert sorted(told) == [(clip_id, attempt) for clip_id in "ab" for attempt in (1, 2, 3)]
    assert read_failures(store.workspace, [store])["error"].to_pylist() == ["try 3", "try 3"]


def test_the_one_store_that_fits_is_found_and_others_are_listed(store):
    other = FeatureStore(store.workspace, "audio", "ba9876543210")
    other.create({"extractor": "wav2vec2"}, feature_dim=4)
    for made in (store, other):
        made.write([features("a")])
    assert find_store(store.workspace, "audio", extractor="wav2vec2") == other
    with pytest.raises(UserError, match=r"several sets of audio features; .*prosody .*wav2vec2"):
        find_store(store.workspace, "audio")
    with pytest.raises(UserError, match=r"no audio features of 'hubert'; .*prosody"):
        find_store(store.workspace, "audio", extractor="hubert")
    FeatureStore(store.workspace, "audio", "abandoned").create({"extractor": "wav2vec2"}, feature_dim=4)
    assert find_store(store.workspace, "audio", extractor="wav2vec2") == other
    with pytest.raises(UserError, match="emi-ray extract"):
        find_store(store.workspace, "vision")


def test_features_that_are_not_there_are_named_with_what_could_be_meant(tmp_path):
    with pytest.raises(UserError, match="No workspace at"):
        read_features(tmp_path / "nope", "audio")
    with pytest.raises(UserError, match="modality 'audi': did you mean 'audio'"):
        read_features(tmp_path, "audi")
    workspace = Workspace(str(tmp_path / "w"))
    workspace.write_config(WorkspaceConfig())
    store = FeatureStore(workspace, "audio", "abc")
    store.create({"extractor": "prosody"}, 3)
    store.write([ClipFeatures("a", np.zeros((2, 3), np.float16), np.zeros(2, np.float32), {})])
    features = read_features(workspace, "audio")
    assert repr(features) == "FeatureSet(audio, prosody, feature_dim=3)"
    with pytest.raises(KeyError, match="clip 'b' has no audio features"):
        features["b"]
    with pytest.raises(UserError, match="has no text features; available: audio"):
        read_features(workspace, "text")
