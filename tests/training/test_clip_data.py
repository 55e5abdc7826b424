import os
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray
from planted import planted_workspace

from emi_ray.config import WorkspaceConfig
from emi_ray.errors import EmiRayError, UserError
from emi_ray.recipe.loading import load_recipe
from emi_ray.store.failures import Failure, write_failures
from emi_ray.store.feature_layout import ClipFeatures
from emi_ray.store.feature_store import FeatureStore, stores_of
from emi_ray.training import shared_features
from emi_ray.training.data.feature_sources import find_stores
from emi_ray.training.data.packed_reading import read_clip_data, read_packed
from emi_ray.training.data.shared_file import create_on_disk
from emi_ray.training.shared_features import SharedFeatures, _read, num_bytes_of, opened
from emi_ray.workspace import Workspace


@pytest.fixture
def workspace(tmp_path):
    return planted_workspace(tmp_path, num_train=20, num_val=10, num_test=4)


def stores_of_f2(workspace):
    return find_stores(workspace, load_recipe("f2"), WorkspaceConfig())


def test_features_are_read_aligned_to_the_corpus(workspace):
    stores = stores_of_f2(workspace)
    data = read_clip_data(workspace, stores)
    assert len(data) == 34
    for modality, store in stores.items():
        packed = data.features[modality]
        held = {row.clip_id: row.values for row in store.rows()}
        for row, clip_id in enumerate(data.clip_ids):
            assert packed.present[row] == (clip_id in held)
            np.testing.assert_array_equal(packed.of(row), held.get(clip_id, packed.values[:0]))
    assert not data.features["text"].present.all()
    assert np.isnan(data.targets[data.splits == "test"]).all()


def test_a_mapped_file_holds_the_same(workspace, tmp_path):
    ids = workspace.clips()["clip_id"].combine_chunks()
    for modality, store in stores_of_f2(workspace).items():
        plain = read_packed(store, ids)
        with create_on_disk(tmp_path / modality).open("r+b") as file:
            mapped = read_packed(store, ids, file)
            assert isinstance(mapped.values, np.memmap)
            file.seek(0)
            read_packed(store, ids, file)  # as after a lost attempt, while the first one is mapped
        np.testing.assert_array_equal(mapped.values, plain.values)


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="files in memory exist on Linux only")
def test_features_that_fit_into_memory_are_shared_there_and_leave_nothing(workspace, ray_session):
    store, clips = stores_of_f2(workspace)["audio"], workspace.clips()
    expected = _read(store, clips, None, (), None, 0)
    shared = SharedFeatures(ray.put(clips), num_bytes_of(store))
    mapped = ray.get(shared.of(store, None, ()))
    assert mapped.file.path.startswith(f"/proc/{os.getpid()}/fd/")
    found = opened(mapped)
    shared.close()
    descriptor = os.memfd_create("the next file with that number")
    os.write(descriptor, b"not to be touched")
    for mode in ("rb", "r+b"):
        with pytest.raises(EmiRayError, match="has ended"):
            mapped.file.open(mode)
    os.lseek(descriptor, 0, os.SEEK_SET)
    assert os.read(descriptor, 100) == b"not to be touched"
    os.close(descriptor)
    np.testing.assert_array_equal(found.values, expected.values)  # a process that has mapped them keeps them


def test_features_that_do_not_fit_into_memory_are_shared_on_the_disk(workspace, ray_session, monkeypatch):
    store, clips = stores_of_f2(workspace)["audio"], workspace.clips()
    expected = _read(store, clips, None, (), None, 0)
    monkeypatch.setattr(shared_features, "available_memory", lambda: num_bytes_of(store))
    shared = SharedFeatures(ray.put(clips), num_bytes_of(store))
    mapped = ray.get(shared.of(store, None, ()))
    found = opened(mapped)
    assert Path(mapped.file.path).is_file()
    shared.close()
    assert not Path(mapped.file.path).parent.exists()
    np.testing.assert_array_equal(found.values, expected.values)


def test_features_that_fill_the_memory_are_read_through_a_file(workspace, monkeypatch, tmp_path):
    store, clips = stores_of_f2(workspace)["audio"], workspace.clips()
    expected = _read(store, clips, None, (), None, 0)
    mapped = _read(store, clips, None, (), create_on_disk(tmp_path / "values"), 0)
    assert len(pickle.dumps(mapped)) < expected.values.nbytes
    monkeypatch.setattr(shared_features, "available_memory", lambda: 1)
    through_a_file = _read(store, clips, None, (), None, 100)
    for packed in (opened(pickle.loads(pickle.dumps(mapped))), through_a_file):
        assert isinstance(packed.values.base, np.memmap)
        np.testing.assert_array_equal(packed.values, expected.values)
        np.testing.assert_array_equal(packed.starts, expected.starts)
    # Ray copies a plain array as it is; it would first pickle a numpy.memmap.
    buffers: list[pickle.PickleBuffer] = []
    pickle.dumps(through_a_file, protocol=5, buffer_callback=buffers.append)
    assert max(buffer.raw().nbytes for buffer in buffers) == expected.values.nbytes


def test_clips_that_are_not_in_the_corpus_are_passed_over(workspace):
    stores = stores_of_f2(workspace)
    before = read_clip_data(workspace, stores).features["audio"].values
    stranger = ClipFeatures("zzz", np.ones((3, stores["audio"].feature_dim)), np.zeros(3), {})
    stores["audio"].write([stranger])
    after = read_clip_data(workspace, stores).features["audio"].values
    np.testing.assert_array_equal(np.sort(before, axis=None), np.sort(after, axis=None))


def test_a_number_that_is_not_finite_is_refused_by_the_name_of_its_clip(workspace):
    store = FeatureStore(workspace, "audio", "broken")
    store.create({"extractor": "broken"}, 2)
    rows = [ClipFeatures(f"{i:05d}", np.ones((2, 2)), np.zeros(2), {}) for i in range(4)]
    rows[2].values[1, 1] = np.inf
    store.write(rows)
    with pytest.raises(UserError, match="clip '00002'"):
        read_clip_data(workspace, {"audio": store})


def test_of_several_stores_the_configured_extractors_is_read_unless_the_recipe_names_one(workspace):
    other = FeatureStore(workspace, "audio", "other")
    other.create({"extractor": "prosody", "settings": {"hop": 2}, "media": {"sample_rate_hz": 16000}}, 3)
    row = ClipFeatures("00000", np.ones((1, 3)), np.zeros(1), {})
    other.write([row])
    recipe = load_recipe("audio")
    assert find_stores(workspace, recipe, WorkspaceConfig())["audio"].fingerprint == "other"
    for name in ("madea0000", "planted-audio"):
        named = load_recipe("audio", [f"encoders.audio.features={name}"])
        assert find_stores(workspace, named, WorkspaceConfig())["audio"].fingerprint == "madea0000"
    third = FeatureStore(workspace, "audio", "third")
    third.create({"extractor": "prosody", "settings": {"hop": 3}, "media": {}}, 3)
    third.write([row])
    with pytest.raises(UserError, match=r"encoders\.audio\.features"):
        find_stores(workspace, recipe, WorkspaceConfig())


@pytest.mark.parametrize("extras", [(), ("loudness", "pace")])
@pytest.mark.parametrize("in_file", [False, True])
def test_parts_whose_clips_are_all_in_an_earlier_part_are_passed_over(tmp_path, extras, in_file):
    """As after a kill between writing a merged part and deleting those it was made of."""
    store = FeatureStore(Workspace(str(tmp_path / "w")), "audio", "abc")
    store.create({"extractor": "x"}, 4)
    columns = {name: np.zeros(3, np.float32) for name in extras}
    for clips in (["a", "b"], ["c"]):
        store.write(
            [
                ClipFeatures(c, np.full((3, 4), ord(c), np.float16), np.zeros(3, np.float32), columns)
                for c in clips
            ]
        )
    parts = store.parts()
    tables = (table for part in parts for table in store.held._read_part(part))
    store.held._write_grouped(f"{store.folder}/part-0000000000000000.parquet", tables)
    file = create_on_disk(tmp_path / "values").open("r+b") if in_file else None
    packed = read_packed(store, pa.array(["c", "a", "b"]), file, None, extras)
    assert [packed.of(clip)[:, 0].tolist() for clip in range(3)] == [[99.0] * 3, [97.0] * 3, [98.0] * 3]


def test_a_modality_of_which_no_clip_has_the_input_is_explained(workspace):
    """Extracting again, which other lacks of features need, would not help."""
    empty = FeatureStore(workspace, "text", "0123")
    empty.create({"extractor": "hashed-ngrams"}, 4)
    for store in stores_of(workspace, "text"):
        if store.fingerprint != empty.fingerprint:
            workspace.delete(store.folder)
    write_failures(workspace, [Failure(i, "text", "0123", "missing", "no transcript") for i in ("a", "b")])
    told = r"no clip could give any, 2 of 2 because no transcript\. Train on others: .*audio.*name=whisper"
    with pytest.raises(UserError, match=told):
        stores_of_f2(workspace)
