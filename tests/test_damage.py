"""Files of a workspace that a power failure or a full disk has cut off."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from emi_ray.damage import DamagedFileError
from emi_ray.errors import UserError
from emi_ray.store.feature_layout import ClipFeatures
from emi_ray.store.feature_store import FeatureStore
from emi_ray.workspace import Workspace

REMEDY = "Delete this file; emi-ray status then names the command that makes it again"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(str(tmp_path))


def damage(workspace: Workspace, relative: str, how: str) -> None:
    path = Path(workspace.path(relative))
    data = bytearray(path.read_bytes())
    if how == "zeros":
        # The blocks of the middle did not reach the disk.
        data[len(data) // 8 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 8)
    kept = {"empty": 0, "half": len(data) // 2, "zeros": len(data)}[how]
    path.write_bytes(data[:kept])


@pytest.mark.parametrize("how", ["empty", "half"])
def test_a_damaged_description_is_named_with_the_remedy(workspace, how):
    workspace.write_json("runs/f2/1/metrics.json", {"val": 0.5})
    damage(workspace, "runs/f2/1/metrics.json", how)
    with pytest.raises(UserError, match=f"runs/f2/1/metrics.json is damaged: .*{REMEDY}"):
        workspace.read_json("runs/f2/1/metrics.json")


@pytest.mark.parametrize("how", ["empty", "half", "zeros"])
def test_a_damaged_table_is_named(workspace, how):
    workspace.write_table("clips.parquet", pa.table({"clip_id": [f"clip-{i}" for i in range(5000)]}))
    damage(workspace, "clips.parquet", how)
    with pytest.raises(DamagedFileError, match=f"clips.parquet is damaged: .*{REMEDY}"):
        workspace.clips()


@pytest.mark.parametrize("how", ["half", "zeros"])
def test_a_damaged_part_is_named_whoever_reads_it(workspace, how):
    store = FeatureStore(workspace, "audio", "0123456789ab")
    store.create({"extractor": "prosody"}, feature_dim=4)
    values = np.random.default_rng(1).normal(size=(500, 4)).astype(np.float16)
    rows = [ClipFeatures(f"c{i}", values, np.arange(500, dtype=np.float32), {}) for i in range(20)]
    part = store.write(rows)
    damage(workspace, part, how)
    with pytest.raises(DamagedFileError, match=f"{part} is damaged"):
        list(store.tables())
    Path(workspace.path(part)).unlink()
    assert store.parts() == []


def test_an_error_of_the_disk_is_no_damage(workspace):
    Path(workspace.path("folder.json")).mkdir()
    with pytest.raises(OSError, match="is a directory"):
        workspace.read_json("folder.json")


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("precision", ["float16", "float32"])
@pytest.mark.parametrize("lost", ["_extractor.json", "_precision.json"])
def test_a_description_that_was_deleted_is_written_again(workspace, raw, precision, lost):
    identity = {"extractor": "prosody", "settings": {}}
    store = FeatureStore(workspace, "audio", "0123456789ab")
    store.create(identity, feature_dim=4)
    store.settle_precision(precision)
    values = np.full((3, 4), 1.00001, np.float32)
    store.write([ClipFeatures("a", values, np.arange(3, dtype=np.float32), {})], raw)
    before = store.describe()
    workspace.delete(f"{store.folder}/{lost}")
    again = FeatureStore(workspace, "audio", "0123456789ab")
    if lost == "_extractor.json":
        with pytest.raises(
            UserError, match=r"_extractor.json does not exist. To write it again: emi-ray extract"
        ):
            again.describe()
    again.describe_again(identity)
    assert {**again.describe(), "dtype_reason": ""} == before
    assert again.dtype == np.dtype(precision)
    (row,) = again.rows()
    assert (row.values == values.astype(precision)).all()


def test_a_column_that_a_table_does_not_have_is_no_damage(workspace):
    workspace.write_table("clips.parquet", pa.table({"clip_id": ["a"]}))
    with pytest.raises(pa.ArrowInvalid, match="No match for FieldRef"):
        workspace.read_table("clips.parquet", ["nope"])
