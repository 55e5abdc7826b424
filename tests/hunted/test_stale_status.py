"""``emi-ray status`` names one clip of each kind of staleness, and the same commands bring all up to date."""

from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from test_stale_features import SPECS, Corpus

from emi_ray.cli import main
from emi_ray.config import CorpusSettings, ExtractorSettings, WorkspaceConfig
from emi_ray.corpus.setup import init_workspace
from emi_ray.errors import UserError
from emi_ray.extraction.pipeline import plan_pipeline
from emi_ray.extractors.builtin.audio import Prosody
from emi_ray.prediction import read_new_clips
from emi_ray.recipe.loading import load_recipe
from emi_ray.schema import Label, clips_schema
from emi_ray.status import Line, read_status
from emi_ray.status.models import study_lines, train_command
from emi_ray.training.plan import plan_run
from emi_ray.training.run import execute_run
from emi_ray.workspace import CLIPS, Workspace

JOY = Label("Joy")
SMALL = ["training.epochs=1", "encoders.audio.hidden=8"]
IDS = [f"{index:02d}" for index in range(12)]
CONFIG = WorkspaceConfig(corpus=CorpusSettings())


def write_clips(corpus: Corpus, joy: float = 0.0) -> None:
    for index, (clip_id, row) in enumerate(corpus.rows.items()):
        row["split"] = "train" if index < 8 else "val"
        row["Joy"] = (index * 7 % 5) / 5 + (joy if clip_id == "03" else 0)  # type: ignore[assignment]
    table = pa.Table.from_pylist(list(corpus.rows.values()), schema=clips_schema([JOY]))
    corpus.workspace.write_table(CLIPS, table)


def train(workspace: Workspace) -> dict:
    plan = plan_run(workspace, load_recipe("audio", SMALL), CONFIG, 42)
    return plan.finished() or execute_run(plan)


def lines(workspace: Workspace) -> dict[str, Line]:
    return {f"{line.stage} {line.name.split()[0]}": line for line in read_status(workspace, CONFIG).lines}


def numbers(line: Line) -> tuple[int, ...]:
    return tuple(map(int, (line.current, line.stale, line.missing, line.quarantined)))


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    corpus = Corpus(tmp_path)
    for clip_id in IDS:
        corpus.add(clip_id, video=b"film of " + clip_id.encode(), transcript=f"words of {clip_id}")
    corpus.add("12", video=str(tmp_path / "late.mp4"), transcript="late")
    corpus.workspace.write_config(CONFIG)
    write_clips(corpus)
    corpus.extract(fails=frozenset({"12"}))
    train(corpus.workspace)
    return corpus


def test_all_is_current_at_first_but_for_what_is_quarantined(corpus):
    found = lines(corpus.workspace)
    assert numbers(found["features audio"]) == (12, 0, 0, 1)
    assert numbers(found["runs audio/42"]) == (1, 0, 0, 0)
    assert numbers(found["encoders stage"]) == (1, 0, 0, 0)
    assert read_status(corpus.workspace, CONFIG).commands == []


def test_each_kind_of_staleness_is_named_and_mended_with_the_least_work(corpus, tmp_path, capsys):
    workspace = corpus.workspace
    corpus.file("00", "video", b"another film")
    corpus.rows["01"]["transcript"] = "corrected words"
    (tmp_path / "late.mp4").write_bytes(b"late film")
    corpus.rows["13"] = {"clip_id": "13", "video": corpus.file("13", "video", b"new"), "transcript": "new"}
    write_clips(corpus, joy=0.1)
    found = lines(workspace)
    assert numbers(found["features audio"]) == (11, 1, 2, 0)
    assert numbers(found["features text"]) == (11, 1, 1, 1)
    assert found["features audio"].why[:2] == (
        "1 stale: the video file changed (00)",
        "1 can be tried again: the video file was supplied (12)",
    )
    assert "1 stale: the transcript changed (01)" in found["features text"].why
    assert numbers(found["runs audio/42"]) == (0, 1, 0, 0)
    assert numbers(found["encoders stage"]) == (0, 1, 0, 0)
    assert read_status(workspace, CONFIG).commands == [
        f"emi-ray extract -w {workspace.root}",
        f"emi-ray train -w {workspace.root} audio --seed 42 encoders.audio.hidden=8 training.epochs=1",
    ]
    work = corpus.extract()
    done = {m: len(w.attempts) - w.attempts.null_count for m, w in work.by_modality.items()}
    assert done == {"vision": 3, "motion": 3, "audio": 3, "text": 2}
    assert not train(workspace)["stages"]["audio"]["reused"]
    found = lines(workspace)
    assert numbers(found["features audio"]) == (14, 0, 0, 0)
    assert numbers(found["runs audio/42"]) == (1, 0, 0, 0)
    assert read_status(workspace, CONFIG).commands == []
    before = train(workspace)
    assert corpus.extract().table.num_rows == 0
    assert train(workspace) == before


def test_the_verb_says_it_in_words(corpus, capsys):
    corpus.file("00", "video", b"another film")
    with pytest.raises(SystemExit) as ending:
        main(["status", "-w", corpus.workspace.root])
    assert not ending.value.code
    said = capsys.readouterr().out
    assert "the video file changed (00)" in said
    assert f"emi-ray extract -w {corpus.workspace.root}" in said
    assert set(SPECS) <= set(said.replace("(", " ").split())


def test_a_run_is_trained_again_by_its_own_settings(corpus):
    """The command that is shown repeats them; settings of all runs in ``emi_ray.yaml`` are none of its own."""
    write_clips(corpus, joy=0.1)
    (command,) = read_status(corpus.workspace, CONFIG).commands
    *_, seed, hidden, epochs = command.split()
    plan = plan_run(corpus.workspace, load_recipe("audio", [hidden, epochs]), CONFIG, int(seed))
    execute_run(plan)
    assert read_status(corpus.workspace, CONFIG).commands == []
    corpus.workspace.write_config(CONFIG.model_copy(update={"training": {"epochs": 1}}))
    assert train_command(corpus.workspace, "audio/42", plan.recipe).endswith("42 encoders.audio.hidden=8")
    assert train_command(corpus.workspace, "mine/1", plan.recipe).endswith("mine.yaml --seed 1")


def test_a_run_on_features_of_an_extractor_that_is_no_longer_set_is_stale(corpus):
    changed = {**CONFIG.extractors, "audio": ExtractorSettings(name="prosody", settings={"num_mels": 30})}
    other = CONFIG.model_copy(update={"extractors": changed})
    spec = plan_pipeline(corpus.workspace, other, ["audio"]).specs["audio"]
    corpus.extract({"audio": spec})
    found = next(line for line in read_status(corpus.workspace, other).lines if line.name == "audio/42")
    assert found.why == (
        f"audio would be trained on the features {spec.fingerprint} of the extractor configured now",
    )
    assert numbers(lines(corpus.workspace)["runs audio/42"]) == (1, 0, 0, 0)


def test_a_run_on_features_of_another_version_of_its_extractor_predicts_nothing_new(
    corpus, tmp_path, monkeypatch
):
    (tmp_path / "new.mp4").write_bytes(b"film")
    sources = [str(tmp_path / "new.mp4")]
    read_new_clips(corpus.workspace, "audio/42", sources)
    monkeypatch.setattr(Prosody, "VERSION", Prosody.VERSION + 1)
    with pytest.raises(
        UserError, match=r"audio/42 was trained on audio features .* another version of 'prosody'"
    ):
        read_new_clips(corpus.workspace, "audio/42", sources)


def test_features_of_a_newer_version_are_the_ones_that_training_reads(corpus, monkeypatch):
    before = plan_run(corpus.workspace, load_recipe("audio", SMALL), CONFIG, 42)
    monkeypatch.setattr(Prosody, "VERSION", Prosody.VERSION + 1)
    spec = plan_pipeline(corpus.workspace, CONFIG, ["audio"]).specs["audio"]
    assert spec.fingerprint not in before.fingerprints.values()
    corpus.extract({"audio": spec})
    plan = plan_run(corpus.workspace, load_recipe("audio", SMALL), CONFIG, 42)
    assert plan.fingerprints == {"audio": spec.fingerprint}
    assert numbers(lines(corpus.workspace)["runs audio/42"]) == (0, 1, 0, 0)


def test_a_run_of_other_ranges_is_stale_and_a_moved_corpus_is_not(corpus, tmp_path):
    workspace = corpus.workspace
    for clip_id in IDS:
        path = Path(str(corpus.rows[clip_id]["video"]))
        corpus.rows[clip_id]["video"] = str(path.rename(tmp_path / f"moved-{path.name}"))
    write_clips(corpus)
    assert numbers(lines(workspace)["runs audio/42"]) == (1, 0, 0, 0)
    assert numbers(lines(workspace)["features audio"]) == (12, 0, 0, 1)
    clips = workspace.clips()
    workspace.write_table(CLIPS, clips.cast(clips_schema([Label("Joy", 0, 100)])))
    found = lines(workspace)["runs audio/42"]
    assert found.why == ("labels, their ranges or their order have changed",)


def test_a_table_that_was_corrected_without_init_is_named_with_all_that_follows_from_it(tmp_path):
    """Nothing but the table has changed; the commands begin with init, and say at once what comes after it."""
    rows = [
        {"clip_id": name, "split": "train", "transcript": f"words of {name}", "Joy": "0.5"} for name in "abcd"
    ]
    table, workspace = tmp_path / "clips.csv", Workspace(str(tmp_path / "work"))

    def write(rows: list[dict[str, str]]) -> None:
        lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
        table.write_text("\n".join(lines) + "\n")

    def found() -> dict[str, Line]:
        lines = read_status(workspace, workspace.config()).lines
        return {f"{line.stage} {line.name.split()[0]}": line for line in lines}

    write(rows)
    init_workspace(workspace, "table", str(table))
    specs = plan_pipeline(workspace, workspace.config(), ["text"]).specs
    stand_in = Corpus(tmp_path)
    stand_in.workspace = workspace
    stand_in.rows = {
        row["clip_id"]: row for row in workspace.clips().drop_columns(["Joy", "group"]).to_pylist()
    }
    stand_in.extract(specs)
    assert numbers(found()["corpus table"]) == (4, 0, 0, 0)
    assert found()["corpus table"].command is None
    rows[0]["transcript"], rows[1]["split"], rows[2]["Joy"] = "corrected", "val", "0.25"
    write([*rows[:3], {**rows[3], "clip_id": "e"}])
    line = found()["corpus table"]
    assert numbers(line) == (0, 4, 1, 0)
    assert line.why == (
        "1 clip: their media or transcripts differ in the source now",
        "1 clip: their splits differ in the source now",
        "1 clip: values of labels differ in the source now",
        "1 clip is no longer in the source (d)",
        "1 clip is new in the source (e)",
    )
    assert numbers(found()["features text"]) == (2, 1, 1, 0)
    commands = read_status(workspace, workspace.config()).commands
    assert commands[0] == f"emi-ray init -w {workspace.root} --corpus table --source {table}"
    assert commands[1] == f"emi-ray extract -w {workspace.root}"
    init_workspace(workspace, "table", str(table))
    assert numbers(found()["corpus table"]) == (4, 0, 0, 0)
    table.unlink()
    assert "cannot be compared with its source" in found()["corpus table"].why[0]


def test_a_run_whose_features_are_to_be_made_anew_is_named_in_the_same_status(corpus):
    """One pass of the commands brings all up to date; a second look would find nothing new."""
    corpus.file("00", "video", b"another film")
    line = lines(corpus.workspace)["runs audio/42"]
    assert (numbers(line), line.why) == ((0, 1, 0, 0), ("audio features must be extracted first",))
    assert [command.split()[1] for command in read_status(corpus.workspace, CONFIG).commands] == [
        "extract",
        "train",
    ]


@pytest.mark.parametrize(
    ("has_new_corpus", "pending", "current"),
    [(False, [], 1), (True, [], 0), (False, ["made"], 0), (False, ["other"], 1)],
)
def test_a_study_whose_corpus_or_features_are_to_be_read_anew_is_stale_in_the_same_status(
    tmp_path, monkeypatch, has_new_corpus, pending, current
):
    workspace = Workspace(str(tmp_path))
    workspace.write_text("studies/s/study.json", "{}")
    recipe = SimpleNamespace(training=SimpleNamespace(seed=1))
    settings = SimpleNamespace(recipe=recipe, data_key="key")
    planned = SimpleNamespace(key="key", stores={"text": SimpleNamespace(fingerprint="made")})
    monkeypatch.setattr("emi_ray.status.models.read_settings", lambda *_: settings)
    monkeypatch.setattr("emi_ray.status.models.plan_run", lambda *_: planned)
    [line] = study_lines(workspace, WorkspaceConfig(), has_new_corpus, pending)
    assert (line.current, line.stale) == (current, 1 - current)
