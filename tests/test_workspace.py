import os

import pyarrow as pa
import pytest

from emi_ray.config import WorkspaceConfig
from emi_ray.errors import UserError
from emi_ray.workspace import Workspace


@pytest.fixture(params=["path", "uri"])
def workspace(request, tmp_path):
    return Workspace(str(tmp_path) if request.param == "path" else tmp_path.as_uri())


def test_what_is_written_is_read_back(workspace):
    workspace.write_text("a/b/c.txt", "hello")
    workspace.write_json("a/d.json", {"x": 1})
    workspace.write_table("t.parquet", pa.table({"x": [1, 2]}))
    assert workspace.read_text("a/b/c.txt") == "hello"
    assert workspace.read_json("a/d.json") == {"x": 1}
    assert workspace.read_table("t.parquet")["x"].to_pylist() == [1, 2]
    assert workspace.files("a", recursive=True) == ["a/b/c.txt", "a/d.json"]
    assert workspace.folders("a") == ["b"]


def test_a_write_that_fails_leaves_nothing(workspace):
    with pytest.raises(TypeError):
        workspace.write_bytes("a/x", "not bytes")
    assert not workspace.exists("a/x")
    assert workspace.files("a") == []


def test_a_write_replaces_the_file_whole(workspace):
    workspace.write_text("x", "a long first version")
    workspace.write_text("x", "short")
    assert workspace.read_text("x") == "short"


def test_deleting_what_is_not_there_is_no_error(workspace):
    workspace.delete("nothing")
    workspace.write_text("folder/x", "")
    workspace.delete("folder")
    assert not workspace.exists("folder/x")


def test_a_folder_within_is_a_workspace_of_its_own(workspace):
    inner = workspace.inner("predictions/p1")
    inner.write_text("x", "1")
    assert workspace.read_text("predictions/p1/x") == "1"


def test_what_one_drives_no_other_may(workspace):
    with workspace.driving("runs/f2/1", "Run f2/1"):
        with workspace.driving("runs/f2/2", "Run f2/2"):
            pass
        with (
            pytest.raises(UserError, match=f"Run f2/1 is in progress in process {os.getpid()}"),
            workspace.driving("runs/f2/1", "Run f2/1"),
        ):
            pass
    with workspace.driving("runs/f2/1", "Run f2/1"):
        pass


def test_an_override_is_told_from_the_file_that_it_overrides(workspace):
    workspace.write_config(WorkspaceConfig())
    with pytest.raises(UserError, match=r"override of .*emi_ray.yaml: extraction.rows_per_block = 'many'"):
        workspace.config(["extraction.rows_per_block=many"])
    with pytest.raises(UserError, match="override of .*unknown setting 'extraction.rows'"):
        workspace.config(["extraction.rows.max=3"])
    workspace.write_text("emi_ray.yaml", "extraction: {rows_per_block: many}")
    with pytest.raises(UserError, match=r"^(?!override).*emi_ray.yaml: extraction.rows_per_block = 'many'"):
        workspace.config(["corpus.kind=table"])


def test_configuration_round_trips_with_overrides(workspace):
    workspace.write_config(WorkspaceConfig())
    assert workspace.config(["media.max_frames=7"]).media.max_frames == 7


def test_a_missing_workspace_says_how_to_make_one(workspace):
    with pytest.raises(UserError, match="emi-ray init"):
        workspace.config()
    with pytest.raises(UserError, match="emi-ray init"):
        workspace.clips()


def test_a_workspace_in_the_upload_of_a_job_is_refused(tmp_path):
    with pytest.raises(UserError, match="is in the upload of this job"):
        Workspace(str(tmp_path / "runtime_resources/working_dir_files/_ray_pkg_0/work")).exists("x")
