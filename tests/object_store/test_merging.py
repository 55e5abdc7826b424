"""Behind a URI a merge that fails loses no row, although Arrow completes the upload of what was written."""

import pyarrow.parquet as pq
import pytest

from emi_ray.store import parts
from emi_ray.store.parts import PartFolder
from tests.object_store.test_part_index import made, rows_of


def test_a_merge_that_fails_while_it_writes_is_repeated_as_a_whole(s3, monkeypatch):
    monkeypatch.setattr(parts, "GROUP_BYTES", 1)  # a row group for each part
    store = made(s3, "halfway")
    before, sources = rows_of(store), store.parts()
    write, num_groups = pq.ParquetWriter.write_table, []

    def failing(self, table, **options):
        num_groups.append(table.num_rows)
        if len(num_groups) == 4:
            raise SystemExit(1)  # as the process of a task does that is told to end
        return write(self, table, **options)

    with monkeypatch.context() as patch:
        patch.setattr(pq.ParquetWriter, "write_table", failing)
        with pytest.raises(SystemExit):
            store.held.merge(sources)
    assert len(store.parts()) == len(sources) + 1  # Arrow completes an upload that fails
    store.held.merge(sources)
    assert rows_of(store) == before
    assert len(store.parts()) == 1


def test_a_merge_whose_sources_another_attempt_has_merged_and_deleted_loses_none(s3, monkeypatch):
    monkeypatch.setattr(parts, "GROUP_BYTES", 1)
    store = made(s3, "overtaken")
    before, sources = rows_of(store), store.parts()
    read, others = PartFolder._read_part, []

    def overtaken(self, part):
        if part == sources[3] and not others:
            others.append(True)
            self.merge(sources)  # the attempt of a node that was cut off
        return read(self, part)

    monkeypatch.setattr(PartFolder, "_read_part", overtaken)
    with pytest.raises(FileNotFoundError):
        store.held.merge(sources)
    assert rows_of(store) == before
