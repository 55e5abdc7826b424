"""Export of features from the store."""

import csv
import pickle

import numpy as np
import pyarrow as pa
import pytest
from ready_features import halves, write_pickle

from emi_ray.errors import UserError
from emi_ray.exchange import export_failures, export_features, export_transcripts, import_features
from emi_ray.store.failures import Failure, write_failures
from emi_ray.store.feature_layout import ClipFeatures
from emi_ray.store.feature_store import FeatureStore, stores_of
from emi_ray.store.transcript_store import TranscriptStore
from emi_ray.workspace import CLIPS, Workspace


@pytest.fixture
def workspace(tmp_path, peer_folder):
    workspace = Workspace(str(tmp_path / "work"))
    import_features(workspace, "mimicmetrics", str(peer_folder))
    return workspace


def pickles(folder) -> dict[str, np.ndarray]:
    return {str(path.relative_to(folder)): pickle.loads(path.read_bytes()) for path in folder.rglob("*.pkl")}


def test_import_then_export_gives_the_same_files_bit_by_bit(workspace, peer_folder, tmp_path):
    done = export_features(workspace, "mimicmetrics", str(tmp_path / "out"))
    assert [(part.modality, part.num_clips) for part in done] == [
        ("text", 20),
        ("audio", 20),
        ("vision", 20),
        ("motion", 20),
    ]
    expected, found = pickles(peer_folder), pickles(tmp_path / "out")
    assert expected.keys() == found.keys()
    for name, array in expected.items():
        assert found[name].dtype == np.float32
        assert found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)
    for name in ("train_split.csv", "valid_split.csv"):
        assert (tmp_path / "out" / name).read_text() == (peer_folder / name).read_text()


def test_what_is_no_float16_comes_back_rounded_to_it(tmp_path):
    array = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
    write_pickle(tmp_path / "in/a.pkl", array)
    workspace = Workspace(str(tmp_path / "work"))
    import_features(workspace, "folder", str(tmp_path / "in"), "audio")
    export_features(workspace, "folder", str(tmp_path / "out"))
    found = np.load(tmp_path / "out/a.npy")
    np.testing.assert_array_equal(found, array.astype(np.float16))
    np.testing.assert_allclose(found, array, rtol=2**-11, atol=1e-7)


def test_an_export_imported_again_is_the_same_export(workspace, tmp_path):
    export_features(workspace, "mimicmetrics", str(tmp_path / "one"))
    again = Workspace(str(tmp_path / "again"))
    import_features(again, "mimicmetrics", str(tmp_path / "one"))
    assert again.clips().equals(workspace.clips())
    export_features(again, "mimicmetrics", str(tmp_path / "two"))
    for name, array in pickles(tmp_path / "one").items():
        np.testing.assert_array_equal(pickles(tmp_path / "two")[name], array)


def test_missing_text_is_a_vector_of_zeros_again(peer_folder, tmp_path):
    write_pickle(peer_folder / "embeddings/text/00005.pkl", np.zeros(8, np.float32))
    workspace = Workspace(str(tmp_path / "work"))
    import_features(workspace, "mimicmetrics", str(peer_folder), "text")
    done = export_features(workspace, "mimicmetrics", str(tmp_path / "out"))
    assert (done[0].num_clips, done[0].num_zeros) == (19, 1)
    assert pickles(tmp_path / "out").keys() == {f"embeddings/text/{index:05d}.pkl" for index in range(20)}
    np.testing.assert_array_equal(pickles(tmp_path / "out")["embeddings/text/00005.pkl"], np.zeros(8))


def test_a_folder_of_npy_holds_one_modality(workspace, tmp_path):
    with pytest.raises(UserError, match="Add --modality"):
        export_features(workspace, "folder", str(tmp_path / "out"))
    export_features(workspace, "folder", str(tmp_path / "out"), "text")
    assert np.load(tmp_path / "out/00000.npy").shape == (1, 8)


def test_of_several_features_one_is_chosen(workspace, peer_folder, tmp_path):
    import_features(workspace, "mimicmetrics", str(peer_folder), "text", name="theirs")
    with pytest.raises(UserError, match=r"several sets of text features.*theirs.*--features FINGERPRINT"):
        export_features(workspace, "folder", str(tmp_path / "out"), "text")
    done = export_features(workspace, "folder", str(tmp_path / "out"), "text", features="theirs")
    assert done[0].num_clips == 20
    with pytest.raises(UserError, match="no text features called 'gte'"):
        export_features(workspace, "folder", str(tmp_path / "out"), "text", features="gte")


def test_an_id_never_leads_out_of_the_folder(workspace, tmp_path):
    store = FeatureStore(workspace, "audio", "planted")
    store.create({"extractor": "planted"}, 3)
    store.write([ClipFeatures("../escaped", halves(2, 3), np.zeros(2), {})])
    with pytest.raises(UserError, match="cannot be the name of a file"):
        export_features(workspace, "folder", str(tmp_path / "out"), "audio", features="planted")
    assert not (tmp_path / "escaped.npy").exists()


def test_a_workspace_without_features_says_so(tmp_path):
    with pytest.raises(UserError, match="has no features yet"):
        export_features(Workspace(str(tmp_path)), "folder", str(tmp_path / "out"))
    with pytest.raises(UserError, match="did you mean 'mimicmetrics'"):
        export_features(Workspace(str(tmp_path)), "mimicmetric", str(tmp_path / "out"))


def test_transcripts_go_out_as_one_table_recognised_ones_among_them(workspace, tmp_path):
    with pytest.raises(UserError, match="transcriber.name=whisper"):
        export_transcripts(workspace, str(tmp_path / "out"))
    clips = workspace.clips()
    ids = clips["clip_id"].to_pylist()
    given = pa.array(["so, then", *[None] * (len(ids) - 1)], pa.string())
    column = clips.schema.get_field_index("transcript")
    workspace.write_table(CLIPS, clips.set_column(column, clips.schema.field(column), given))
    TranscriptStore(workspace, "a1").write({ids[0]: "not this", ids[1]: "I saw", ids[2]: ""})
    path, count = export_transcripts(workspace, str(tmp_path / "out"))
    assert count == 2
    with open(path) as stream:
        assert list(csv.reader(stream)) == [
            ["clip_id", "transcript", "origin"],
            [ids[0], "so, then", "corpus"],
            [ids[1], "I saw", "a1"],
        ]


def test_failures_go_out_as_one_table_without_those_that_no_longer_count(workspace, tmp_path):
    [store] = stores_of(workspace, "audio")
    done = min(store.clip_ids())
    tried = [
        ("b", "missing", "no sound", 1),
        ("a", "media", "=broken", 1),
        ("a", "media", "=broken", 2),
        (done, "media", "no", 1),
    ]
    failures = [Failure(i, "audio", store.fingerprint, *rest) for i, *rest in tried]
    write_failures(workspace, failures)
    path, count = export_failures(workspace, str(tmp_path / "out"))
    with open(path) as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == count
    found = [
        (row["clip_id"], row["stage"], row["error"], row["attempt"])
        for row in rows
        if row["clip_id"] in ("a", "b", done) and row["modality"] == "audio"
    ]
    assert found == [("a", "media", "'=broken", "2"), ("b", "missing", "no sound", "1")]
