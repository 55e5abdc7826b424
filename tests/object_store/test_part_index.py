"""Behind a URI the index repeats whole rows while they are few, so that reading a store takes few requests."""

import numpy as np
import pyarrow as pa

from emi_ray.schema import Origin
from emi_ray.store import parts
from emi_ray.store.feature_layout import ClipFeatures
from emi_ray.store.feature_store import FeatureStore
from emi_ray.training.data.packed_reading import read_packed
from emi_ray.workspace import Workspace


def row(clip_id: str, seed: int = 0) -> ClipFeatures:
    values = np.random.default_rng([seed, *clip_id.encode()]).normal(size=(3, 4)).astype(np.float16)
    extras = {"arousal": np.arange(3, dtype=np.float32)}
    return ClipFeatures(clip_id, values, np.arange(3, dtype=np.float32), extras, Origin(f"s{seed}", "st"))


def made(s3, name: str, num_parts: int = 6) -> FeatureStore:
    store = FeatureStore(Workspace(s3.uri(name)), "audio", "0123456789ab")
    store.create({"extractor": "prosody"}, feature_dim=4)
    store.settle_precision("float16")
    for index in range(num_parts):
        store.write([row(f"{index}-{place}") for place in range(2)])
    return store


def rows_of(store: FeatureStore) -> dict[str, bytes]:
    return {found.clip_id: found.values.tobytes() for found in store.rows()}


def opened(monkeypatch) -> list[str]:
    """Paths of what is read from now on."""
    paths: list[str] = []
    read = Workspace.read_bytes

    def noted(self, path, size=None):
        paths.append(path)
        return read(self, path, size)

    monkeypatch.setattr(Workspace, "read_bytes", noted)
    return paths


def test_a_small_store_is_read_from_its_index_alone(s3, monkeypatch):
    store = made(s3, "index alone")
    before = rows_of(store)
    store.held.tidy()
    paths = opened(monkeypatch)
    ids = pa.array([f"{index}-{place}" for index in range(6) for place in range(2)])
    packed = read_packed(store, ids, extras=["arousal"])
    assert packed.values.shape == (36, 5)
    assert paths == ["index/features/audio/0123456789ab.parquet"]
    assert rows_of(store) == before
    assert set(store.tables(["clip_id", "num_steps"]).__next__().column_names) == {"clip_id", "num_steps"}


def test_the_index_is_not_trusted_against_the_parts(s3):
    store = made(s3, "index untrusted")
    store.held.tidy()
    first, *_ = store.parts()
    gone = set(store.workspace.read_table(first, ["clip_id"])["clip_id"].to_pylist())
    store.workspace.delete(first)
    assert store.clip_ids() == set(rows_of(store)) == {f"{i}-{j}" for i in range(6) for j in range(2)} - gone
    store.write([row("new")])
    assert "new" in rows_of(store)
    store.workspace.delete("index")
    assert "new" in store.clip_ids()


def test_a_clip_that_stands_twice_is_tidied_and_a_large_store_has_the_small_columns_only(s3, monkeypatch):
    store = made(s3, "index twice")
    store.write([row("0-0", seed=1), row("late")])
    store.held.tidy()
    written = [i for part in store.parts() for i in store.workspace.read_table(part)["clip_id"].to_pylist()]
    assert sorted(written) == sorted({*written})
    assert "features" in store.workspace.read_table("index/features/audio/0123456789ab.parquet").column_names
    before = rows_of(store)
    monkeypatch.setattr(parts, "GROUP_BYTES", 1000)
    store.write([row("one more")])
    store.held.tidy()
    names = store.workspace.read_table("index/features/audio/0123456789ab.parquet").column_names
    assert names == ["clip_id", "num_steps", "source", "source_stamp", "digest", "part", "part_stamp"]
    assert rows_of(store).items() > before.items()


def test_an_index_that_repeats_two_rows_of_a_clip_is_read_as_the_first_one(s3):
    store = made(s3, "index of repetitions")
    before = rows_of(store)
    store.write([row(clip_id) for clip_id in before])
    before = rows_of(store)
    store.held.restamp({"0-0": "new"})  # writes the index of all rows as they are
    assert store.workspace.read_table("index/features/audio/0123456789ab.parquet").num_rows == 2 * len(before)
    assert [found.clip_id for found in store.rows()] == list(before)
    assert rows_of(store) == before
    assert read_packed(store, pa.array([*before])).values.shape == (36, 4)
