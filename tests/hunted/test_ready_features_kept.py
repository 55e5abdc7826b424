"""Ready features that change, and that vary little: what is kept is what was given."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from emi_ray.exchange import import_features
from emi_ray.store.failures import read_failures
from emi_ray.store.feature_store import FeatureStore
from emi_ray.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(str(tmp_path / "work"))


def halves(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float16)


def npy_folder(folder: Path, clips: Mapping[str, np.ndarray]) -> str:
    (folder / "features").mkdir()
    for clip_id, values in clips.items():
        np.save(folder / f"features/{clip_id}.npy", values)
    return str(folder / "features")


def test_a_file_that_has_changed_replaces_its_features_and_others_stay(workspace, tmp_path):
    folder = {name: halves(2, 4, seed=index) for index, name in enumerate("abcd")}
    source = npy_folder(tmp_path, folder)
    before = import_features(workspace, "folder", source, "audio").parts[0]
    store = FeatureStore(workspace, "audio", before.fingerprint)
    np.save(f"{source}/b.npy", -folder["b"])
    np.save(f"{source}/c.npy", halves(2, 7))
    after = import_features(workspace, "folder", source, "audio", extend=True).parts[0]
    assert after.fingerprint == before.fingerprint
    assert (after.num_imported, after.num_replaced, list(after.reasons)) == (1, 1, ["c"])
    held = {row.clip_id: row.values for row in store.rows()}
    assert sorted(held) == ["a", "b", "d"]
    np.testing.assert_array_equal(held["b"], -folder["b"])
    again = import_features(workspace, "folder", source, "audio", extend=True).parts[0]
    assert (again.num_imported, again.num_replaced) == (0, 0)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [(lambda r: r, "float16"), (lambda r: 20_000 + r, "float32"), (lambda r: r * 1e-8, "float32")],
    ids=["plain", "offset", "tiny"],
)
def test_what_features_vary_by_is_kept(workspace, tmp_path, values, dtype):
    clips = {f"{i}": values(np.random.default_rng(i).normal(size=(20, 4))) for i in range(6)}
    part = import_features(workspace, "folder", npy_folder(tmp_path, clips), "audio").parts[0]
    assert part.dtype == dtype
    for row in FeatureStore(workspace, "audio", part.fingerprint).rows():
        exact = clips[row.clip_id]
        error = np.sqrt(np.square(exact - row.values.astype(np.float64)).mean(axis=0)) / exact.std(axis=0)
        assert error.max() < 0.03


def test_a_folder_of_nothing_but_new_clips_quarantines_none_of_the_old_ones(workspace, tmp_path):
    (tmp_path / "later").mkdir()
    source = npy_folder(tmp_path, {name: halves(2, 4) for name in "ab"})
    later = npy_folder(tmp_path / "later", {"c": halves(2, 4)})
    import_features(workspace, "folder", source, "audio")
    (part,) = import_features(workspace, "folder", later, "audio", extend=True).parts
    assert (part.num_imported, part.num_missing) == (1, 0)
    assert FeatureStore(workspace, "audio", part.fingerprint).clip_ids() == {"a", "b", "c"}
    assert read_failures(workspace).num_rows == 0
