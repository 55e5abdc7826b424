"""What a column of numbers is for: labels are told from ids, people, folds and ages."""

from pathlib import Path

import pytest
from table_files import messages, read_text_table

from emi_ray.corpus.setup import init_workspace
from emi_ray.errors import UserError
from emi_ray.exchange import import_features
from emi_ray.workspace import Workspace

NO_LABELS = [
    *("speaker", "subject", "participant_id", "fold", "age", "Age", "speakerID", "SpeakerId2", "subject-no"),
    *(
        "PID",
        "uid",
        "person",
        "actor",
        "user_id",
        "cv_fold",
        "kfold",
        "gender",
        "num_frames",
        "start",
        "index",
    ),
    *(
        "id",
        "video id",
        "dialogue_id",
        "participant.age",
        "age_years",
        "session",
        "row_number",
        "rater_1",
        "fps",
    ),
]
LABELS = [
    "valence",
    "speaker_arousal",
    "stress",
    "paid",
    "courage",
    "subjective joy",
    "personality",
    "scale 3",
]


def rows_with(name: str) -> str:
    return f"clip_id,split,video,Joy,{name}\n1,train,a.mp4,0.5,3\n2,train,a.mp4,0.1,3\n3,val,b.mp4,0,7\n"


@pytest.mark.parametrize("name", NO_LABELS)
def test_numbers_that_look_like_an_id_a_fold_or_an_age_are_refused_as_labels(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(
        UserError, match=r"clips\.csv: .*would become labels.*'corpus\.labels=\[Joy\]'"
    ) as refusal:
        read_text_table(tmp_path, rows_with(name))
    assert repr(name) in str(refusal.value)


@pytest.mark.parametrize("name", LABELS)
def test_other_numbers_are_labels_and_are_named(tmp_path: Path, name: str) -> None:
    corpus = read_text_table(tmp_path, rows_with(name))
    assert [label.name for label in corpus.labels] == ["Joy", name]
    assert f"labels: Joy [0, 1], {name} [3, 4]." in messages(corpus)


def test_numbers_that_count_the_rows_are_refused_whatever_they_are_called(tmp_path: Path) -> None:
    rows = "".join(f"c{row},train,a.mp4,{row + 100}\n" for row in range(10))
    with pytest.raises(UserError, match="'lfd' would become labels"):
        read_text_table(tmp_path, "clip_id,split,video,lfd\n" + rows)


def test_declared_labels_are_taken_in_their_order_and_no_others(tmp_path: Path) -> None:
    corpus = read_text_table(tmp_path, rows_with("age"), labels=["age", "Joy"])
    assert [label.name for label in corpus.labels] == ["age", "Joy"]
    corpus = read_text_table(tmp_path, rows_with("age"), labels=["Joy"])
    assert [label.name for label in corpus.labels] == ["Joy"]
    assert "ignored, because corpus.labels does not name them: age." in messages(corpus)


def test_a_declared_range_says_that_a_column_is_a_label(tmp_path: Path) -> None:
    corpus = read_text_table(tmp_path, rows_with("age"), label_ranges={"age": (0, 100)})
    assert [label.name for label in corpus.labels] == ["Joy", "age"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["Jyo"], r"corpus\.labels: no column 'Jyo': did you mean 'Joy'\?"),
        (["Joy", "Joy"], "names 'Joy' twice"),
        (["split"], "'split' has another meaning"),
    ],
)
def test_labels_that_cannot_be_are_refused(tmp_path: Path, labels: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_text_table(tmp_path, rows_with("age"), labels=labels)


def test_a_group_is_kept_as_text_and_is_no_label(tmp_path: Path) -> None:
    text = "clip_id,split,group,video,Joy\n1,train,07,a.mp4,0\n2,train,07,a.mp4,1\n3,val,,b.mp4,0\n"
    corpus = read_text_table(tmp_path, text)
    assert corpus.clips["group"].to_pylist() == ["07", "07", None]
    assert [label.name for label in corpus.labels] == ["Joy"]
    assert "groups: 1; 1 clip has none." in messages(corpus)


def test_another_column_can_be_the_group(tmp_path: Path) -> None:
    corpus = read_text_table(tmp_path, rows_with("speaker"), group="speaker")
    assert corpus.clips["group"].to_pylist() == ["3", "3", "7"]
    assert [label.name for label in corpus.labels] == ["Joy"]
    with pytest.raises(
        UserError, match=r"corpus\.group = 'speker': no such column: did you mean 'speaker'\?"
    ):
        read_text_table(tmp_path, rows_with("speaker"), group="speker")


def test_a_column_of_names_of_people_is_offered_as_the_group(tmp_path: Path) -> None:
    corpus = read_text_table(tmp_path, "clip_id,split,video,Speaker\n1,train,a.mp4,Ann\n2,val,b.mp4,Bo\n")
    assert "use it as the group: 'corpus.group=Speaker'" in messages(corpus)


def test_a_group_in_two_splits_is_warned_of(tmp_path: Path) -> None:
    text = "clip_id,split,group,video,Joy\n1,train,A,a.mp4,0\n2,val,A,a.mp4,1\n3,val,B,b.mp4,0\n"
    (warning,) = [
        str(w)
        for w in read_text_table(tmp_path, text).warnings
        if "have clips in more than one split" in str(w)
    ]
    assert "1 groups (for example A)" in warning
    assert warning.endswith("[2 clips: 1, 2]")


def test_a_workspace_keeps_groups_and_remembers_what_labels_are(tmp_path: Path) -> None:
    read_text_table(tmp_path, rows_with("speaker"), group="speaker")
    workspace = Workspace(str(tmp_path / "work"))
    init_workspace(
        workspace, "table", str(tmp_path / "clips.csv"), ["corpus.labels=[Joy]", "corpus.group=speaker"]
    )
    init_workspace(workspace, "table", str(tmp_path / "clips.csv"))
    assert workspace.clips(["group"])["group"].to_pylist() == ["3", "3", "7"]
    assert workspace.config().corpus.labels == ("Joy",)


def test_splits_of_imported_features_say_what_labels_are_too(tmp_path: Path) -> None:
    import numpy as np

    (tmp_path / "npy").mkdir()
    for clip_id in "123":
        np.save(tmp_path / f"npy/{clip_id}.npy", np.ones((2, 3), np.float16))
    (tmp_path / "splits.csv").write_text(rows_with("age"))
    arguments = {"modality": "audio", "splits": str(tmp_path / "splits.csv")}
    workspace = Workspace(str(tmp_path / "work"))
    with pytest.raises(UserError, match="'age' would become labels"):
        import_features(workspace, "folder", str(tmp_path / "npy"), **arguments)
    import_features(
        workspace, "folder", str(tmp_path / "npy"), **arguments, overrides=["corpus.labels=[Joy]"]
    )
    assert workspace.clips().column_names[-1] == "Joy"


def test_split_files_of_hume_may_name_groups(tmp_path: Path) -> None:
    header = "Filename,group,Admiration,Amusement,Determination,Empathic Pain,Excitement,Joy\n"
    (tmp_path / "raw").mkdir()
    for clip_id in ("00000", "08072"):
        (tmp_path / f"raw/{clip_id}.mp4").write_bytes(b"video")
    (tmp_path / "train_split.csv").write_text(header + "00000,P1,0,0,0,0,0,0\n")
    (tmp_path / "valid_split.csv").write_text(header + "08072,P2,0,0,0,0,0,0\n")
    workspace = Workspace(str(tmp_path / "work"))
    corpus = init_workspace(workspace, "vidmimic2", str(tmp_path))
    assert corpus.clips["group"].to_pylist() == ["P1", "P2"]
