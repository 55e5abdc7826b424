"""Import of features that other programs extracted."""

import os
import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from ready_features import halves, held, make_peer_folder, npy_folder, write_pickle, write_splits

from emi_ray.config import WorkspaceConfig
from emi_ray.errors import EmiRayError, UserError
from emi_ray.exchange import import_features, storing
from emi_ray.recipe.loading import load_recipe
from emi_ray.schema import EMOTIONS
from emi_ray.store.failures import read_failures
from emi_ray.store.feature_store import FeatureStore, find_store
from emi_ray.training.data.feature_sources import find_stores
from emi_ray.training.data.packed_reading import read_clip_data
from emi_ray.workspace import Workspace


@pytest.fixture
def workspace(tmp_path):
    return Workspace(str(tmp_path / "work"))


def failures(workspace) -> dict[str, tuple[str, str]]:
    return {row["clip_id"]: (row["stage"], row["error"]) for row in read_failures(workspace).to_pylist()}


def test_the_peers_folder_becomes_a_workspace_with_splits_and_labels(workspace, peer_folder):
    done = import_features(workspace, "mimicmetrics", str(peer_folder))
    assert [(part.modality, part.num_imported) for part in done.parts] == [
        ("text", 20),
        ("audio", 20),
        ("vision", 20),
        ("motion", 20),
    ]
    clips = workspace.clips().to_pandas()
    assert clips["split"].value_counts().to_dict() == {"train": 12, "val": 6, "test": 2}
    assert workspace.config().corpus.kind == "features"
    labels = pd.read_csv(peer_folder / "train_split.csv")
    np.testing.assert_array_equal(clips[list(EMOTIONS)][:12], labels[list(EMOTIONS)])
    for modality, folder in {"vision": "embeddings/face", "text": "embeddings/text"}.items():
        found = held(workspace, modality)["00003"]
        expected = pickle.loads((peer_folder / folder / "00003.pkl").read_bytes())
        np.testing.assert_array_equal(found, np.atleast_2d(expected))
    assert all(part.rounding == 0 for part in done.parts)


def test_training_finds_imported_features(workspace, peer_folder):
    import_features(workspace, "mimicmetrics", str(peer_folder))
    stores = find_stores(workspace, load_recipe("f2"), workspace.config())
    data = read_clip_data(workspace, stores)
    assert set(data.features) == {"text", "audio", "vision", "motion"}
    assert all(features.present.all() for features in data.features.values())


def test_a_recipe_can_name_imported_features_among_others(workspace, peer_folder):
    import_features(workspace, "mimicmetrics", str(peer_folder), "text", name="their-gte")
    import_features(workspace, "mimicmetrics", str(peer_folder), "text")
    recipe = load_recipe("text", ["encoders.text.features=their-gte"])
    stores = find_stores(workspace, recipe, WorkspaceConfig())
    assert stores["text"].describe()["extractor"] == "their-gte"


def test_the_same_features_have_the_same_fingerprint_anywhere_and_others_another(tmp_path):
    def fingerprints(name):
        folder = make_peer_folder(tmp_path / name)
        if name == "changed":
            write_pickle(folder / "motion" / "00001.pkl", halves(7, 23, seed=9))
        done = import_features(Workspace(str(tmp_path / f"work-{name}")), "mimicmetrics", str(folder))
        return {part.modality: part.fingerprint for part in done.parts}

    first, again, changed = map(fingerprints, ("one", "two", "changed"))
    assert first == again
    assert {m for m in first if first[m] != changed[m]} == {"motion"}


def test_a_killed_import_goes_on_where_it_stopped(workspace, peer_folder, monkeypatch):
    monkeypatch.setattr(storing, "CLIPS_PER_PART", 4)

    def die(done, total, title):
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_features(workspace, "mimicmetrics", str(peer_folder), "audio", on_progress=die)
    assert len(held(workspace, "audio")) == 8
    seen = []
    done = import_features(
        workspace,
        "mimicmetrics",
        str(peer_folder),
        "audio",
        on_progress=lambda n, total, _: seen.append(total),
    )
    assert (done.parts[0].num_before, done.parts[0].num_imported, max(seen)) == (8, 12, 12)
    assert len(held(workspace, "audio")) == 20
    assert import_features(workspace, "mimicmetrics", str(peer_folder), "audio").parts[0].num_imported == 0


def test_one_bad_clip_costs_only_itself_and_its_reason_is_kept(workspace, peer_folder, hostile):
    make, trace = hostile
    faces = peer_folder / "embeddings/face"
    nan = halves(3, 6)
    nan[1, 2] = np.nan
    write_pickle(faces / "00002.pkl", make())
    write_pickle(faces / "00003.pkl", nan)
    write_pickle(faces / "00004.pkl", halves(3, 6).astype(np.float64) * 1e39)
    write_pickle(faces / "00005.pkl", halves(3, 7))
    (faces / "00006.pkl").write_bytes(b"junk")
    (faces / "00007.pkl").unlink()
    part = import_features(workspace, "mimicmetrics", str(peer_folder), "vision").parts[0]
    assert (part.num_imported, part.num_missing, len(part.reasons)) == (14, 1, 5)
    found = failures(workspace)
    assert "00002.pkl: the file wants to use posix.system" in found["00002"][1]
    assert "value 2 of step 1 is nan" in found["00003"][1]
    assert "exceeds the range of float16" in found["00004"][1]
    assert "7 features per step, but other clips have 6" in found["00005"][1]
    assert "cannot be unpickled" in found["00006"][1]
    assert found["00007"][0] == "missing"
    assert not trace.exists()


def test_the_usual_size_counts_not_that_of_the_first_clip(workspace, tmp_path):
    source = npy_folder(tmp_path, {"a": halves(2, 9), **{name: halves(2, 4) for name in "bcd"}})
    part = import_features(workspace, "folder", source, "audio").parts[0]
    assert (part.feature_dim, list(part.reasons)) == (4, ["a"])


def test_zero_text_of_the_peer_is_missing_text(workspace, peer_folder):
    write_pickle(peer_folder / "embeddings/text/00005.pkl", np.zeros(8, np.float32))
    part = import_features(workspace, "mimicmetrics", str(peer_folder), "text").parts[0]
    assert (part.num_imported, part.num_missing) == (19, 1)
    assert failures(workspace)["00005"][0] == "missing"


def test_rounding_is_measured(workspace, tmp_path):
    source = npy_folder(tmp_path, {"a": np.random.default_rng(0).normal(size=(50, 8))})
    assert 1e-5 < import_features(workspace, "folder", source, "audio").parts[0].rounding < 1e-3


def test_the_organisers_features_have_the_rates_that_are_known(workspace, tmp_path):
    folder = tmp_path / "hume"
    folder.mkdir()
    write_splits(folder, 4, 2)
    for index in range(6):
        write_pickle(folder / "vit" / f"{index:05d}.pkl", torch.from_numpy(halves(5, 384)))
        write_pickle(folder / "wav2vec2" / f"{index}.pkl", halves(9, 768))
    done = import_features(workspace, "organisers", str(folder))
    assert [(part.modality, part.num_imported) for part in done.parts] == [("vision", 6), ("audio", 6)]
    times = {m: next(find_store(workspace, m).rows()).timestamps_s for m in ("vision", "audio")}
    np.testing.assert_allclose(times["vision"], (np.arange(5) + 0.5) / 6, rtol=1e-6)
    np.testing.assert_allclose(times["audio"], (np.arange(9) + 0.5) / 50, rtol=1e-6)


def test_splits_and_labels_can_come_from_a_table(workspace, tmp_path):
    source = npy_folder(tmp_path, {"a": halves(2, 3), "b": halves(2, 3), "stranger": halves(2, 3)})
    pd.DataFrame({"clip_id": ["a", "b"], "split": ["train", "val"], "Joy": [0.5, 1.0]}).to_csv(
        tmp_path / "clips.csv", index=False
    )
    done = import_features(workspace, "folder", source, "audio", splits=str(tmp_path / "clips.csv"))
    assert workspace.clips()["split"].to_pylist() == ["train", "val"]
    assert workspace.clips()["Joy"].to_pylist() == [0.5, 1.0]
    assert done.parts[0].num_unknown == 1


def test_features_join_a_workspace_that_is_there_and_leave_its_corpus_alone(workspace, peer_folder, tmp_path):
    import_features(workspace, "mimicmetrics", str(peer_folder))
    before = workspace.clips()
    source = npy_folder(tmp_path, {"3": halves(2, 5), "00004": halves(2, 5)})
    part = import_features(workspace, "folder", source, "audio", name="other").parts[0]
    assert workspace.clips().equals(before)
    assert (part.num_imported, part.num_missing) == (2, 18)
    store = FeatureStore(workspace, "audio", part.fingerprint)
    assert store.clip_ids() == {"00003", "00004"}


def test_clips_that_come_later_join_the_features_of_before(workspace, tmp_path):
    folder = make_peer_folder(tmp_path / "peer", num_test=0)
    before = import_features(workspace, "mimicmetrics", str(folder)).parts
    for index in (18, 19):
        for place, shape in {"face": (4, 6), "audio": (3, 5), "text": (8,)}.items():
            write_pickle(folder / f"embeddings/{place}/{index:05d}.pkl", halves(*shape, seed=index))
    after = import_features(workspace, "mimicmetrics", str(folder), extend=True).parts
    assert [part.fingerprint for part in after] == [part.fingerprint for part in before]
    assert [part.num_imported for part in after] == [2, 2, 2, 0]
    assert workspace.clips()["split"].to_pylist()[-2:] == ["test", "test"]
    assert (
        import_features(workspace, "mimicmetrics", str(folder)).parts[0].fingerprint != before[0].fingerprint
    )


def test_an_import_is_compared_with_the_row_of_a_clip_that_counts(workspace, peer_folder, tmp_path):
    import_features(workspace, "mimicmetrics", str(peer_folder))
    arrays = {"00003": halves(2, 5), "00004": halves(2, 5)}
    source = npy_folder(tmp_path, arrays)
    part = import_features(workspace, "folder", source, "audio", name="other").parts[0]
    store = FeatureStore(workspace, "audio", part.fingerprint)
    row = next(store.rows())
    again = store.write([replace(row, values=row.values + 1)])
    # The repeated row is in the last part, so that the row of before counts.
    os.rename(workspace.path(again), workspace.path(f"{store.folder}/part-z.parquet"))
    after = import_features(workspace, "folder", source, "audio", name="other", extend=True).parts[0]
    assert (after.num_imported, after.num_replaced) == (0, 0)
    assert {row.clip_id: row.values.tolist() for row in store.rows()} == {
        clip_id: values.tolist() for clip_id, values in arrays.items()
    }


def test_doubles_of_which_no_precision_keeps_the_variation_are_refused_with_the_remedy(workspace, tmp_path):
    clips = {f"{i}": 1e9 + np.random.default_rng(i).normal(size=(20, 4)) for i in range(6)}
    with pytest.raises(UserError, match=r"dimension \d is 1e\+09 ± .*Subtract each dimension's mean"):
        import_features(workspace, "folder", npy_folder(tmp_path, clips), "audio")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("mimicmetric", "peer"), "did you mean 'mimicmetrics'"),
        (("folder", "peer/motion"), "Add --modality"),
        (("folder", "nowhere", "audio"), "no such folder"),
        (("folder", "peer/embeddings", "audio"), "it has no feature files"),
        (("organisers", "peer"), "contains none of vit, wav2vec2"),
        (("organisers", "peer", "text"), "has no text"),
        (("table", "peer/train_split.csv", "audio"), "one of the suffixes"),
    ],
)
def test_mistakes_are_told_with_the_remedy(workspace, peer_folder, arguments, words):
    layout, source, *modality = arguments
    with pytest.raises(UserError, match=words):
        import_features(workspace, layout, str(peer_folder.parent / source), *modality)
    assert not workspace.exists("clips.parquet")


def test_the_name_of_an_extractor_is_refused(workspace, peer_folder):
    with pytest.raises(UserError, match="the name of an extractor"):
        import_features(workspace, "mimicmetrics", str(peer_folder), "text", name="gte-base")
    with pytest.raises(UserError, match="Add --modality"):
        import_features(workspace, "mimicmetrics", str(peer_folder), name="theirs")


def test_features_of_other_clips_are_refused(workspace, peer_folder, tmp_path):
    import_features(workspace, "mimicmetrics", str(peer_folder))
    with pytest.raises(UserError, match=r"none of its 1 ids \(for example someone\)"):
        import_features(workspace, "folder", npy_folder(tmp_path, {"someone": halves(2, 3)}), "audio")


def test_a_source_of_which_nothing_can_be_read_fails(workspace, tmp_path, hostile):
    make, trace = hostile
    write_pickle(tmp_path / "bad/a.pkl", make())
    with pytest.raises(EmiRayError, match=r"a\.pkl: the file wants to use posix.system"):
        import_features(workspace, "folder", str(tmp_path / "bad"), "audio")
    assert not trace.exists()


def test_two_files_of_one_clip_are_refused(workspace, tmp_path):
    source = npy_folder(tmp_path, {"a": halves(2, 3)})
    write_pickle(tmp_path / "arrays/a.pkl", halves(2, 3))
    with pytest.raises(UserError, match=r"a\.npy and a\.pkl are the same clip"):
        import_features(workspace, "folder", source, "audio")
