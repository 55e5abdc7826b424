"""Predictions belong to what the files, tables and transcripts hold when they are made."""

import csv
import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from test_stale_features import Corpus

import emi_ray.prediction
from emi_ray.api.training import plan_runs
from emi_ray.config import WorkspaceConfig
from emi_ray.errors import UserError
from emi_ray.extraction.pending import origin_column, plan_work, store_of, todo_column
from emi_ray.extraction.pipeline import plan_pipeline
from emi_ray.media.provenance import content_of
from emi_ray.prediction import predict_new_clips, predict_split, read_new_clips
from emi_ray.recipe.loading import load_recipe
from emi_ray.schema import Label, Modality, Origin, clips_schema
from emi_ray.status import Line, read_status
from emi_ray.store.failures import Failure, write_failures
from emi_ray.store.feature_layout import ClipFeatures
from emi_ray.store.feature_store import stores_of
from emi_ray.training.plan import plan_run
from emi_ray.training.run import execute_run
from emi_ray.workspace import CLIPS, Workspace

MODALITIES: list[Modality] = ["audio", "text", "vision"]
done: list[tuple[str, str]] = []
"""Clip and modality of each extraction that a test has caused."""


def extract_by_content(workspace, config, modalities, on_progress=None) -> None:
    """Stands in for the extraction: what a clip's features are depends on the content of its inputs alone."""
    pipeline = plan_pipeline(workspace, config, modalities)
    work = plan_work(workspace, workspace.clips(), pipeline.specs, pipeline.transcriber)
    work.discard_stale()
    for row in work.table.to_pylist():
        for modality, spec in pipeline.specs.items():
            if row[todo_column(modality)] is None:
                continue
            done.append((row["clip_id"], modality))
            stamp = row[origin_column(modality)]
            content = content_of(stamp, row)
            seed = int(hashlib.sha256(content.encode()).hexdigest()[:8], 16)
            values = np.random.default_rng(seed).normal(size=(2, 3)).astype(np.float16)
            store = store_of(workspace, spec)
            store.create(spec.identity, 3)
            origin = Origin(content, stamp)
            store.write([ClipFeatures(row["clip_id"], values, np.arange(2, dtype=np.float32), {}, origin)])


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Workspace:
    """A workspace with one run of each of three modalities."""
    corpus = Corpus(tmp_path_factory.mktemp("trained"))
    for index in range(14):
        name = f"{index:02d}"
        split = "train" if index < 8 else "val" if index < 12 else "test"
        corpus.add(name, video=name.encode(), transcript=f"words of {name}")
        joy = None if split == "test" else (index * 7 % 5) / 5
        corpus.rows[name] |= {"split": split, "Joy": joy}  # type: ignore[dict-item]
    workspace = corpus.workspace
    table = pa.Table.from_pylist(list(corpus.rows.values()), schema=clips_schema([Label("Joy")]))
    workspace.write_table(CLIPS, table)
    workspace.write_config(WorkspaceConfig())
    extract_by_content(workspace, WorkspaceConfig(), MODALITIES)
    for modality in MODALITIES:
        execute_run(plan_run(workspace, load_recipe(modality, ["training.epochs=1"]), WorkspaceConfig(), 1))
    return workspace


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch) -> None:
    monkeypatch.setattr(emi_ray.prediction, "extract", extract_by_content)
    done.clear()


def predict(workspace: Workspace, run: str, *sources: Path) -> dict[str, float]:
    new = read_new_clips(workspace, run, [str(source) for source in sources])
    table = predict_new_clips(workspace, new)
    intensities = np.round(table["Joy"].to_numpy(), 5).tolist()
    return dict(zip(table["clip_id"].to_pylist(), intensities, strict=True))


def write_table(path: Path, *rows: dict[str, str]) -> Path:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_file_that_was_overwritten_gives_the_row_of_the_new_file(trained, tmp_path):
    (tmp_path / "new.wav").write_bytes(b"one voice")
    (tmp_path / "twin.wav").write_bytes(b"another voice")
    before = predict(trained, "audio/1", tmp_path / "new.wav")["new"]
    twin = predict(trained, "audio/1", tmp_path / "twin.wav")["twin"]
    assert predict(trained, "audio/1", tmp_path / "new.wav")["new"] == before != twin
    assert done == [("new", "audio"), ("twin", "audio")]
    (tmp_path / "new.wav").write_bytes(b"another voice")
    assert predict(trained, "audio/1", tmp_path / "new.wav")["new"] == twin
    assert done[2:] == [("new", "audio")]


def test_a_transcript_that_was_corrected_in_the_table_gives_the_row_of_the_new_one(trained, tmp_path):
    table = tmp_path / "t.csv"
    rows = [{"clip_id": "a", "transcript": "how nice"}, {"clip_id": "b", "transcript": "how sad"}]
    before = predict(trained, "text/1", write_table(table, *rows))
    assert before["a"] != before["b"]
    rows[0]["transcript"] = "how sad"
    assert predict(trained, "text/1", write_table(table, *rows)) == {"a": before["b"], "b": before["b"]}
    assert done == [("a", "text"), ("b", "text"), ("a", "text")]


def test_a_transcript_file_that_was_overwritten_gives_the_row_of_the_new_one(trained, tmp_path):
    (tmp_path / "a.txt").write_text("how nice")
    (tmp_path / "b.txt").write_text("how sad")
    rows = [{"clip_id": name, "transcript": f"{name}.txt"} for name in "ab"]
    table = write_table(tmp_path / "t.csv", *rows)
    before = predict(trained, "text/1", table)
    (tmp_path / "a.txt").write_text("how sad")
    assert predict(trained, "text/1", table) == {"a": before["b"], "b": before["b"]}


def test_a_table_that_names_other_files_gives_their_rows(trained, tmp_path):
    for name in ("x", "y"):
        (tmp_path / f"{name}.wav").write_bytes(name.encode())
    rows = [{"clip_id": name, "audio": f"{name}.wav"} for name in ("x", "y")]
    table = write_table(tmp_path / "t.csv", *rows)
    before = predict(trained, "audio/1", table)
    rows = [{"clip_id": "x", "audio": "y.wav"}, {"clip_id": "z", "audio": "x.wav"}]
    assert predict(trained, "audio/1", write_table(table, *rows)) == {"x": before["y"], "z": before["x"]}


def test_one_crop_that_was_replaced_gives_another_row(trained, tmp_path):
    (tmp_path / "crops").mkdir()
    for index in range(3):
        (tmp_path / f"crops/{index}.jpg").write_bytes(bytes([index]))
    table = write_table(tmp_path / "t.csv", {"clip_id": "a", "faces_dir": "crops"})
    before = predict(trained, "vision/1", table)
    (tmp_path / "crops/1.jpg").write_bytes(b"another")
    assert predict(trained, "vision/1", table) != before
    (tmp_path / "crops/1.jpg").write_bytes(bytes([1]))
    assert predict(trained, "vision/1", table) == before


def test_status_names_what_has_changed_and_the_same_command_mends_it(trained, tmp_path):
    rows = [{"clip_id": name, "transcript": f"it is {name}"} for name in "abc"]
    table = write_table(tmp_path / "t.csv", *rows)
    predict(trained, "text/1", table)
    place = next(
        f"text/1/{name}"
        for name in trained.folders("predictions/text/1")
        if str(table) in trained.read_text(f"predictions/text/1/{name}/prediction.json")
    )

    def line() -> Line:
        lines = read_status(trained, WorkspaceConfig()).lines
        return next(each for each in lines if each.name == place)

    assert (line().current, line().command) == (3, None)
    rows = [*rows[1:], {"clip_id": "d", "transcript": "it is d"}]
    rows[0]["transcript"] = "it is not"
    write_table(table, *rows)
    assert (line().current, line().stale, line().missing) == (1, 2, 1)
    assert line().why == ("1 stale: the transcript changed", "1 stale: a is no longer among the clips")
    assert line().command == f"emi-ray predict -w {trained.root} text/1 --clips {table} --to FILE"
    predict(trained, "text/1", table)
    assert (line().current, line().stale, line().missing, line().command) == (3, 0, 0, None)
    table.unlink()
    assert "cannot be compared" in line().why[0]


def test_what_a_stale_run_predicted_is_stale_beside_what_else_has_changed(trained, tmp_path):
    (tmp_path / "new.wav").write_bytes(b"sound")
    new = read_new_clips(trained, "audio", [str(tmp_path / "new.wav")])
    assert new.run == "audio/1"
    predict_new_clips(trained, new)
    (tmp_path / "new.wav").write_bytes(b"other")
    clips = trained.clips()
    trained.write_table(CLIPS, clips.cast(clips_schema([Label("Joy", 0, 2)])))
    try:
        lines = [
            each for each in read_status(trained, WorkspaceConfig()).lines if each.stage == "predictions"
        ]
        assert {each.why[0] for each in lines} == {"the run is stale"}
        assert any("1 stale: the sound file changed" in each.why for each in lines)
    finally:
        trained.write_table(CLIPS, clips)


def test_clips_of_the_corpus_whose_files_have_changed_are_refused_with_the_remedy(trained):
    before = predict_split(trained, "audio/1", "test")
    path = Path(trained.clips()["video"].to_pylist()[-1])
    content = path.read_bytes()
    path.write_bytes(b"another")
    try:
        with pytest.raises(
            UserError, match=r"of 1 clip .*for example .*13: the video file changed.*emi-ray extract"
        ):
            predict_split(trained, "audio/1", "test")
        assert predict_split(trained, "text/1", "test").num_rows == 2
    finally:
        path.write_bytes(content)
    assert predict_split(trained, "audio/1", "test").equals(before)


def test_training_on_features_of_files_that_have_changed_says_so(trained):
    assert plan_runs(trained, ["audio", "text"]).stale == []
    path = Path(trained.clips()["video"].to_pylist()[0])
    content = path.read_bytes()
    path.write_bytes(b"another")
    try:
        (said,) = plan_runs(trained, ["audio", "text"]).stale
        assert said.startswith(
            "The audio features of 1 clip were made from other inputs than there are now (for example 00:"
        )
    finally:
        path.write_bytes(content)


def test_clips_that_an_extraction_has_not_reached_do_not_count_as_clips_without_the_modality(trained):
    (store,) = stores_of(trained, "text")
    record = store.held.record()
    held = pa.concat_tables(store.tables())
    store.held.discard(record.filter(pc.is_in(record["clip_id"], value_set=pa.array(["12", "03"]))))
    try:
        with pytest.raises(UserError, match=r"The text of 1 clip, for example 12, is not extracted yet"):
            predict_split(trained, "text/1", "test")
        (said,) = plan_runs(trained, ["text", "audio"]).stale
        assert said.startswith("The text of 2 clips, for example 03, is not extracted yet")
        write_failures(trained, [Failure("12", "text", store.fingerprint, "media", "no words", 1)])
        predict_split(trained, "text/1", "test")
    finally:
        trained.delete("failures")
        for part in store.parts():
            trained.delete(part)
        trained.write_table(f"{store.folder}/part-all.parquet", held)
