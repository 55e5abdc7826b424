from pathlib import Path

import pytest

from emi_ray.config import CorpusSettings
from emi_ray.corpus.manifest import Corpus, read_corpus
from emi_ray.corpus.vidmimic2 import padded, spelled_test_ids
from emi_ray.errors import UserError
from emi_ray.schema import EMOTION_LABELS


def read(root: Path) -> Corpus:
    return read_corpus("vidmimic2", str(root), CorpusSettings())


def rows(corpus: Corpus) -> dict[str, dict]:
    return {row["clip_id"]: row for row in corpus.clips.to_pylist()}


def test_every_clip_stands_in_its_split_under_a_padded_id(vidmimic2: Path) -> None:
    splits = {clip_id: row["split"] for clip_id, row in rows(read(vidmimic2)).items()}
    assert splits == {
        "00000": "train",
        "00001": "train",
        "00002": "train",
        "08072": "val",
        "08073": "val",
        "12660": "test",
        "12661": "test",
    }


def test_the_six_labels_are_read_and_null_in_test(vidmimic2: Path) -> None:
    corpus = read(vidmimic2)
    assert corpus.labels == EMOTION_LABELS
    assert rows(corpus)["08073"]["Empathic Pain"] == 0.4
    assert {rows(corpus)["12660"][label.name] for label in EMOTION_LABELS} == {None}


def test_media_are_absolute_paths_and_null_where_there_is_no_file(vidmimic2: Path) -> None:
    clips = rows(read(vidmimic2))
    assert clips["00000"]["video"] == str(vidmimic2 / "raw/00000.mp4")
    assert clips["00000"]["faces_dir"] == str(vidmimic2 / "face_images/00000")
    assert clips["00000"]["openface_csv"] == str(vidmimic2 / "openface/00000.csv")
    assert clips["00001"]["openface_csv"] is None
    assert clips["00002"]["audio"] is None


def test_an_empty_or_absent_text_file_means_no_transcript(vidmimic2: Path) -> None:
    clips = rows(read(vidmimic2))
    assert clips["00000"]["transcript"] == "What 00000 says."
    assert clips["00001"]["transcript"] is None
    assert clips["08073"]["transcript"] is None


def test_each_split_is_summed_up_by_modality(vidmimic2: Path) -> None:
    assert any("train: 3 clips, 3 labelled; text 2 (66.7%)" in str(f) for f in read(vidmimic2).findings)


@pytest.mark.parametrize("spelled", ["123", "123.0", "00123", " 123 "])
def test_an_id_is_five_digits_however_it_is_spelled(spelled: str) -> None:
    assert padded(spelled) == "00123"


def test_the_official_spelling_of_the_valid_file_is_read_too(vidmimic2: Path) -> None:
    before = read(vidmimic2).clips
    (vidmimic2 / "val_split.csv").rename(vidmimic2 / "valid_split.csv")
    assert read(vidmimic2).clips.equals(before)


def test_ids_as_floats_in_a_split_file_are_the_same_clips(vidmimic2: Path) -> None:
    before = read(vidmimic2).clips
    path = vidmimic2 / "val_split.csv"
    path.write_text(path.read_text().replace("8072,", "8072.0,").replace("8073,", "8073.0,"))
    assert read(vidmimic2).clips.equals(before)


def test_a_test_list_decides_which_clips_are_test_and_keeps_its_spelling(vidmimic2: Path) -> None:
    (vidmimic2 / "test_split.csv").write_text("Filename,Joy\n12661,\n00007,\n")
    clips = rows(read(vidmimic2))
    assert [clip_id for clip_id, row in clips.items() if row["split"] == "test"] == ["12661", "00007"]
    assert spelled_test_ids(str(vidmimic2)) == {"12661": "12661", "00007": "00007"}
    (vidmimic2 / "test_split.csv").write_text("Filename,Joy\n12661,\n7,\n")
    assert spelled_test_ids(str(vidmimic2)) == {"12661": "12661", "00007": "7"}


@pytest.mark.parametrize(
    ("name", "text"), [("test_split.txt", "12661\n12660\n"), ("test_split.csv", "12661\n12660\n")]
)
def test_a_test_list_may_lack_a_header(vidmimic2: Path, name: str, text: str) -> None:
    (vidmimic2 / name).write_text(text)
    assert list(spelled_test_ids(str(vidmimic2))) == ["12661", "12660"]


def test_no_test_list_means_no_spelling(vidmimic2: Path) -> None:
    assert spelled_test_ids(str(vidmimic2)) == {}


def test_media_with_an_early_id_in_no_split_file_are_suspicious(vidmimic2: Path) -> None:
    (vidmimic2 / "raw/00777.mp4").write_bytes(b"video")
    (warning,) = (f for f in read(vidmimic2).warnings if "Is a split file incomplete?" in f.message)
    assert warning.examples == ("00777",)


def test_a_uri_reads_as_the_folder_does(vidmimic2: Path) -> None:
    clips = read_corpus("vidmimic2", f"file://{vidmimic2}", CorpusSettings()).clips
    assert clips["video"][0].as_py() == f"file://{vidmimic2}/raw/00000.mp4"
    assert clips["transcript"].equals(read(vidmimic2).clips["transcript"])


def test_a_missing_split_file_is_named_in_both_spellings(vidmimic2: Path) -> None:
    (vidmimic2 / "val_split.csv").unlink()
    with pytest.raises(UserError, match=r"valid_split\.csv or val_split\.csv does not exist"):
        read(vidmimic2)


def test_a_misspelled_label_column_is_refused_with_the_nearest(vidmimic2: Path) -> None:
    path = vidmimic2 / "train_split.csv"
    path.write_text(path.read_text().replace("Empathic Pain", "Empathic_Pain"))
    with pytest.raises(
        UserError, match=r"train_split\.csv: no column 'Empathic Pain': did you mean 'Empathic_Pain'"
    ):
        read(vidmimic2)


def test_an_unknown_column_is_ignored_with_a_warning(vidmimic2: Path) -> None:
    path = vidmimic2 / "train_split.csv"
    path.write_text(
        "\n".join(line + ",1" for line in path.read_text().replace("Joy", "Joy,Age", 1).splitlines()).replace(
            "Age,1", "Age"
        )
    )
    assert any("unknown column 'Age' ignored" in f.message for f in read(vidmimic2).warnings)


def test_a_clip_in_train_and_val_is_refused(vidmimic2: Path) -> None:
    with (vidmimic2 / "val_split.csv").open("a") as file:
        file.write("1,0,0,0,0,0,0\n")
    with pytest.raises(UserError, match=r"more than one split.*\[1 clip: 00001\]"):
        read(vidmimic2)


def test_a_row_without_an_id_is_refused(vidmimic2: Path) -> None:
    with (vidmimic2 / "train_split.csv").open("a") as file:
        file.write(",0,0,0,0,0,0\n")
    with pytest.raises(UserError, match="clip_id is empty in 1 row"):
        read(vidmimic2)


def test_a_label_out_of_range_is_refused_with_its_clip(vidmimic2: Path) -> None:
    path = vidmimic2 / "train_split.csv"
    path.write_text(path.read_text().replace("0.75", "75"))
    with pytest.raises(UserError, match=r"Determination = 75 is outside \[0, 1\].*\[1 clip: 00002\]"):
        read(vidmimic2)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such folder"):
        read(tmp_path / "nowhere")
