"""A user's mistake is reported before Ray starts, and files that are not needed are not read."""

from pathlib import Path

import pytest
from table_files import read_text_table

import emi_ray.prediction
import emi_ray.runtime
from emi_ray.cli import main
from emi_ray.corpus.setup import init_workspace
from emi_ray.corpus.table import read_clips
from emi_ray.errors import UserError
from emi_ray.prediction import read_new_clips
from emi_ray.training.data.input_hashes import require_labels
from emi_ray.workspace import Workspace


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*_: object, **__: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(emi_ray.runtime, "ray_session", started)


def workspace_of(folder: Path, text: str) -> str:
    read_text_table(folder, text)
    root = str(folder / "work")
    init_workspace(Workspace(root), "table", str(folder / "clips.csv"))
    return root


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clip_id,split,video\n1,train,a.mp4\n2,val,b.mp4\n", "has no labels"),
        ("clip_id,split,video,Joy\n1,train,a.mp4,\n2,val,b.mp4,1\n", "has no label for any training clip"),
    ],
)
@pytest.mark.parametrize("verb", [["train", "text"], ["tune", "text", "--space", "SPACE"]])
def test_a_corpus_without_labels_is_refused_before_ray_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str, verb: list[str]
) -> None:
    root = workspace_of(tmp_path, text)
    space = str(Path(__file__).parents[2] / "search_spaces/text.yaml")
    with pytest.raises(SystemExit) as ended:
        main([space if word == "SPACE" else word for word in verb] + ["-w", root])
    assert ended.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
    with pytest.raises(UserError, match=message):
        require_labels(Workspace(root))


@pytest.mark.usefixtures("no_ray")
def test_training_without_any_features_is_refused_before_ray_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = workspace_of(tmp_path, "clip_id,split,transcript,Joy\n1,train,hello,0\n2,val,bye,1\n")
    with pytest.raises(SystemExit) as ended:
        main(["train", "-w", root, "text", "audio"])
    assert ended.value.code == 2
    printed = " ".join(capsys.readouterr().err.split())
    assert printed.count("has no features yet. Extract them: emi-ray extract -w") == 1


@pytest.mark.usefixtures("no_ray")
def test_the_whole_way_refuses_a_corpus_without_labels_before_it_extracts(tmp_path: Path) -> None:
    read_text_table(tmp_path, "clip_id,split,video\n1,train,a.mp4\n")
    command = [
        "run",
        "text",
        "-w",
        str(tmp_path / "work"),
        "--corpus",
        "table",
        "--source",
        str(tmp_path / "clips.csv"),
    ]
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 2


@pytest.mark.parametrize(
    "columns",
    ["split,Joy\n1,train,7\n2,train,-7\n", "split,age\n1,dev,33\n2,,44\n", "Joy,mean\n1,much,0\n2,,0\n"],
)
def test_clips_to_predict_may_have_any_labels_splits_and_groups(tmp_path: Path, columns: str) -> None:
    (tmp_path / "a.mp4").write_bytes(b"video")
    header, *rows = columns.splitlines()
    lines = [f"clip_id,video,{header}", *(row.replace(",", ",a.mp4,", 1) for row in rows)]
    (tmp_path / "new.csv").write_text("\n".join(lines) + "\n")
    listing = read_clips(str(tmp_path / "new.csv"))
    assert listing.labels == ()
    assert listing.clips.to_pydict() == {
        "clip_id": ["1", "2"],
        "split": ["test", "test"],
        "video": [str(tmp_path / "a.mp4")] * 2,
    }


@pytest.mark.parametrize("suffix", ["csv", "tsv", "txt"])
def test_clips_to_predict_are_read_before_ray_and_their_faults_are_handed_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    root = workspace_of(tmp_path, "clip_id,split,video,Joy\n1,train,a.mp4,0\n")
    monkeypatch.setattr(emi_ray.prediction, "_models", lambda workspace, run: [run])
    for check in ("refuse_other_features", "_refuse_other_transcripts"):
        monkeypatch.setattr(emi_ray.prediction, check, lambda *_: None)
    monkeypatch.setattr(emi_ray.prediction, "find_run", lambda workspace, run: f"runs/{run}")
    path = tmp_path / f"new.{suffix}"
    path.write_text("clip_id\tvideo\tJoy\n1\ta.mp4\t99\n2\tgone.mp4\t0\n")
    new = read_new_clips(Workspace(root), "f2/42", [str(path)])
    assert new.clips["clip_id"].to_pylist() == ["1", "2"]
    assert [finding.examples for finding in new.warnings] == [("2",)]
    with pytest.raises(UserError, match="no such file"):
        read_new_clips(Workspace(root), "f2/42", [str(tmp_path / "nowhere.csv")])
