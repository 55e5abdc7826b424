"""Behind a URI a merge that fails loses no row, although Arrow completes the upload of what was written."""

import pytest

from emi_ray.store import parts
from emi_ray.store.parts import PartFolder
from emi_ray.workspace import Workspace
from tests.object_store.test_part_index import made, rows_of


@pytest.mark.parametrize("error", [OSError("AWS Error NETWORK_CONNECTION"), SystemExit(1)])
@pytest.mark.parametrize("is_taken_back", [True, False])
def test_a_merge_that_fails_halfway_is_repeated_as_a_whole(s3, monkeypatch, error, is_taken_back):
    monkeypatch.setattr(parts, "GROUP_BYTES", 1)  # a row group for each part
    store = made(s3, f"halfway {type(error).__name__} {is_taken_back}")
    before, sources = rows_of(store), store.parts()
    read = PartFolder._read_part

    def failing(self, part):
        if part == sources[3]:
            raise error
        return read(self, part)

    with monkeypatch.context() as patch:
        patch.setattr(PartFolder, "_read_part", failing)
        if not is_taken_back:  # killed, or the storage is out of reach
            patch.setattr(Workspace, "delete_file", lambda *_: None)
        with pytest.raises(type(error)):
            store.held.merge(sources)
    left = set(store.parts()) - set(sources)
    assert len(left) == (0 if is_taken_back else 1)
    store.held.merge(sources)
    assert rows_of(store) == before
    assert len(store.parts()) == 1
