import pytest

from emi_ray.errors import UserError
from emi_ray.output import check_output, write_output


def test_a_file_is_whole_and_folders_are_made(tmp_path):
    check_output(str(tmp_path / "a/b.csv"))
    write_output(str(tmp_path / "a/b.csv"), b"1")
    write_output(str(tmp_path / "a/b.csv"), b"22")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.csv"]
    assert (tmp_path / "a/b.csv").read_bytes() == b"22"


def test_what_cannot_be_written_is_said_before_the_work(tmp_path):
    with pytest.raises(UserError, match="is a folder: give a file in it"):
        check_output(str(tmp_path))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file cannot be written to"):
        check_output(str(tmp_path / "file/x.csv"))
    with pytest.raises(UserError, match="two slashes"):
        check_output("s3:/bucket/x.csv")
    assert not (tmp_path / "s3:").exists()
