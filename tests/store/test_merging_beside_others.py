"""Merges that fail, readers beside a merge, and what a power failure leaves."""

import errno
import os

import numpy as np
import pytest

from emi_ray.store.feature_layout import ClipFeatures
from emi_ray.store.feature_store import FeatureStore
from emi_ray.store.vanishing import tables_until_none_vanishes, until_none_vanishes
from emi_ray.workspace import Workspace
from tests.store.test_parts import held, row, write_many


def test_a_merged_part_that_is_there_beside_all_its_sources_is_written_anew(store):
    before = write_many(store, 4)
    sources = store.parts()
    delete, Workspace.delete = Workspace.delete, lambda *_: None
    try:
        target = store.held.merge(sources)
    finally:
        Workspace.delete = delete
    store.workspace.write_table(
        target, store.workspace.read_table(target).slice(0, 2)
    )  # as if it was cut off
    store.held.merge(sources)
    assert held(store) == before
    assert store.parts() == [target]


def test_a_merged_part_is_on_the_disk_before_its_sources_are_deleted(store, monkeypatch):
    write_many(store, 3)
    told: list[str] = []
    delete, flushed = Workspace.delete, os.fsync
    monkeypatch.setattr(os, "fsync", lambda opened: (told.append("fsync"), flushed(opened)))
    monkeypatch.setattr(Workspace, "delete", lambda self, path: (told.append("delete"), delete(self, path)))
    store.held.merge(store.parts())
    assert told == ["fsync", "fsync", "delete", "delete", "delete"]


def test_sources_stay_if_the_merged_part_cannot_be_flushed(store, monkeypatch):
    before = write_many(store, 3)
    sources = store.parts()

    def failing(opened):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match="Input/output"):
        store.held.merge(sources)
    assert store.parts() == sources
    assert held(store) == before


def test_a_listing_is_not_repeated_for_parts_that_are_added(store, monkeypatch):
    write_many(store, 3)
    stamps, num_listings = Workspace.stamps, []

    def growing(self, folder):
        num_listings.append(folder)
        store.write([row(f"new-{len(num_listings)}")])
        return stamps(self, folder)

    monkeypatch.setattr(Workspace, "stamps", growing)
    assert len(store.held.stamps()) == 5
    assert len(num_listings) == 2


def test_a_listing_that_a_merge_overtakes_is_repeated(store, monkeypatch):
    before = write_many(store, 3)
    stamps, overtaken = Workspace.stamps, []

    def overtaken_once(self, folder):
        """Merge all parts but the first while the first listing is made: it reaches their names after they were
        deleted, and the name of the merged part before that part was written."""
        found = stamps(self, folder)
        if not overtaken:
            overtaken.append(True)
            store.held.merge(list(found)[1:])
            return dict([*found.items()][:1])
        return found

    monkeypatch.setattr(Workspace, "stamps", overtaken_once)
    assert store.clip_ids() == set(before)


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError("part"),
        OSError(errno.ESTALE, "Stale file handle"),
        OSError(
            "When reading … AWS Error NO_SUCH_KEY during GetObject operation: The specified key does not exist."
        ),
    ],
)
def test_a_part_that_vanishes_while_it_is_read_is_not_missed(error):
    errors = [error, error]

    def read():
        if errors:
            raise errors.pop()
        return iter("ab")

    assert [*until_none_vanishes(read)] == ["a", "b"]
    errors = [error]
    assert [*tables_until_none_vanishes(read)] == ["a", "b"]
    errors = [error] * 9
    with pytest.raises(OSError, match=str(error)[:8].replace("[", ".")):
        until_none_vanishes(read)
    errors = [OSError(errno.EACCES, "denied")]
    with pytest.raises(PermissionError):
        until_none_vanishes(read)


def test_parts_without_content_count_as_not_done_and_are_removed(store, caplog):
    write_many(store, 2)
    first, second = store.parts()
    raw = f"{store.folder}/_raw-0"
    for path in (first, raw):
        with open(store.workspace.path(path), "w"):
            pass
    left = store.clip_ids()
    assert len(left) == 2
    store.held.tidy()
    assert store.clip_ids() == left
    assert store.workspace.files(store.folder) == [f"{store.folder}/_extractor.json", second]
    assert [record.message.split(" is empty")[0] for record in caplog.records] == [raw, first]


def test_a_raw_part_is_read_in_its_own_precision_by_a_reader_that_does_not_know_the_stores(store):
    reader = FeatureStore(store.workspace, store.modality, store.fingerprint)
    assert reader.dtype == np.float16
    assert not reader.is_settled
    store.settle_precision("float32")
    values = np.full((2, 4), 1e5, np.float32)
    store.write([ClipFeatures("a", values, np.zeros(2, np.float32), {})], raw=True)
    for found in (FeatureStore(store.workspace, store.modality, store.fingerprint), reader):
        [one] = found.rows()
        assert one.values.tolist() == values.tolist()
    reader.held.merge(reader.parts())
    [one] = store.rows()
    assert one.values.tolist() == values.tolist()


def test_whoever_describes_a_store_does_not_write_over_its_precision(store, monkeypatch):
    late = FeatureStore(store.workspace, store.modality, "other")
    early = FeatureStore(store.workspace, store.modality, "other")
    write = Workspace.write_json

    def late_write(self, path, value):
        monkeypatch.setattr(Workspace, "write_json", write)
        early.create({"extractor": "prosody"}, 4)
        early.settle_precision("float32")
        write(self, path, value)

    monkeypatch.setattr(Workspace, "write_json", late_write)
    late.create({"extractor": "prosody"}, 4)
    assert FeatureStore(store.workspace, store.modality, "other").dtype == np.float32
    late.write([row("a")])
    assert late.dtype == np.float32
