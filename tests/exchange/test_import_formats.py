"""Every format of a file of ready features gives the same features."""

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from ready_features import halves, held, npy_folder, write_pickle
from safetensors.torch import save_file

from emi_ray.exchange import import_features
from emi_ray.workspace import Workspace


@pytest.fixture
def workspace(tmp_path):
    return Workspace(str(tmp_path / "work"))


def test_files_of_a_folder_may_be_of_any_kind(workspace, tmp_path):
    source = npy_folder(tmp_path, {"a": halves(2, 3)})
    torch.save(torch.from_numpy(halves(2, 3)), f"{source}/b.pt")
    save_file({"x": torch.from_numpy(halves(2, 3))}, f"{source}/c.safetensors")
    write_pickle(tmp_path / "arrays/d.pkl", halves(2, 3))
    (tmp_path / "arrays/README.txt").write_text("not features")
    import_features(workspace, "folder", source, "motion")
    found = held(workspace, "motion")
    assert sorted(found) == ["a", "b", "c", "d"]
    assert all((values == halves(2, 3)).all() for values in found.values())
    assert set(workspace.clips()["split"].to_pylist()) == {"test"}


def write_npz(path, arrays):
    np.savez(path, **arrays)


def write_npz_with_ids(path, arrays):
    np.savez(path, ids=list(arrays), features=np.stack(list(arrays.values())))


def write_h5(path, arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array


def write_h5_groups(path, arrays):
    write_h5(path, {f"{name}/features": array for name, array in arrays.items()})


def write_h5_with_ids(path, arrays):
    write_h5(path, {"clip_id": np.array(list(arrays), "S"), "features": np.stack(list(arrays.values()))})


def write_parquet_lists(path, arrays):
    lists = [array.tolist() for array in arrays.values()]
    pq.write_table(pa.table({"clip_id": list(arrays), "features": lists}), path, row_group_size=2)


def write_parquet_rows(path, arrays):
    rows = [(name, *step) for name, array in arrays.items() for step in array]
    pd.DataFrame(rows, columns=["clip_id", "x", "y", "z"]).to_parquet(path, row_group_size=3)


@pytest.mark.parametrize(
    ("write", "suffix"),
    [
        (write_npz, "npz"),
        (write_npz_with_ids, "npz"),
        (write_h5, "h5"),
        (write_h5_groups, "hdf5"),
        (write_h5_with_ids, "h5"),
        (write_parquet_lists, "parquet"),
        (write_parquet_rows, "pq"),
    ],
)
def test_every_kind_of_table_gives_the_same_features(workspace, tmp_path, write, suffix):
    arrays = {name: halves(4, 3, seed=ord(name)) for name in "abcde"}
    write(tmp_path / f"all.{suffix}", arrays)
    import_features(workspace, "table", str(tmp_path / f"all.{suffix}"), "audio")
    found = held(workspace, "audio")
    assert sorted(found) == list("abcde")
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


def test_a_parquet_column_of_vectors_gives_one_step_a_clip(workspace, tmp_path):
    table = pa.table({"clip_id": ["a", "b"], "vector": [[1.0, 2.0], [3.0, 4.0]]})
    pq.write_table(table, tmp_path / "all.parquet")
    import_features(workspace, "table", str(tmp_path / "all.parquet"), "text")
    np.testing.assert_array_equal(held(workspace, "text")["b"], [[3, 4]])
