from pathlib import Path

import pytest

from emi_ray.config import CorpusSettings
from emi_ray.corpus.manifest import read_corpus
from emi_ray.errors import UserError

HEADER = "clip_id,split,video,Joy\n"


def test_an_unknown_kind_is_refused_with_the_choices(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"'tabel': did you mean 'table'\? Choose from: demo, table, vidmimic2"
    ):
        read_corpus("tabel", str(tmp_path), CorpusSettings())


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            "1,train,a.mp4,0\n1,train,a.mp4,0\n",
            r"duplicate clip_id.*identical rows\. Keep one.*\[1 clip: 1\]",
        ),
        ("1,train,a.mp4,0\n1,train,a.mp4,1\n", r"duplicate clip_id.*contradict each other.*\[1 clip: 1\]"),
        ("1,train,a.mp4,0\n1,val,a.mp4,0\n", r"duplicate clip_id.*more than one split.*\[1 clip: 1\]"),
        (",train,a.mp4,0\n", "clip_id is empty in 1 row"),
        ("1,valid,a.mp4,0\n", r"split = 'valid' is not a split: did you mean 'val'\?"),
        ("1,,a.mp4,0\n", "split = '' is not a split"),
        ("1,train,a.mp4,0\n2,train,a.mp4,much\n", r"Joy = 'much' is not a number\. .*\[1 clip: 2\]"),
        (
            "1,train,a.mp4,1.5\n",
            r"Joy = 1\.5 is outside \[0, 1\]\. .*corpus\.label_ranges\.Joy=\[LOW, HIGH\]",
        ),
        ("1,train,a.mp4,-inf\n", r"Joy = -inf is outside \[0, 1\]"),
        ("1,train,,0\n", "no clip has any media"),
        ("1,train,gone.mp4,0\n", r"none of the media files exists \(.*gone\.mp4"),
    ],
)
def test_what_cannot_work_is_refused(table, rows: str, message: str) -> None:
    with pytest.raises(UserError, match=r"clips\.csv: .*" + message):
        table(HEADER + rows)


def test_all_refusals_are_told_at_once(table) -> None:
    with pytest.raises(UserError) as refusal:
        table(HEADER + "1,dev,a.mp4,0\n2,train,a.mp4,7\n2,train,a.mp4,7\n")
    assert len(str(refusal.value).splitlines()) == 3


def test_a_range_for_a_label_that_is_not_there_is_refused(table) -> None:
    with pytest.raises(UserError, match=r"corpus\.label_ranges\.Jyo: no such label: did you mean 'Joy'\?"):
        table(HEADER + "1,train,a.mp4,0\n", label_ranges={"Jyo": (0, 1)})


def test_a_range_upside_down_is_refused(table) -> None:
    with pytest.raises(
        UserError, match=r"corpus\.label_ranges\.Joy = \[1, 0\]: the lower end must come first"
    ):
        table(HEADER + "1,train,a.mp4,0\n", label_ranges={"Joy": (1, 0)})


def test_labels_with_one_name_in_scores_are_refused(table) -> None:
    with pytest.raises(UserError, match="'my label' and 'My-Label' have the same name in scores: my_label"):
        table("clip_id,split,video,my label,My-Label\n1,train,a.mp4,0,1\n")


def test_an_infinite_label_is_refused_whatever_its_range(table) -> None:
    with pytest.raises(UserError, match="mood is infinite"):
        table("clip_id,split,video,mood\n1,train,a.mp4,0\n2,train,a.mp4,inf\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER + "1,train,a.mp4,0\n2,train,gone.mp4,1\n", "video: the file is missing.*[1 clip: 2]"),
        (HEADER + "1,train,a.mp4,0\n2,train,,1\n", "clips without any media"),
        (HEADER + "1,train,a.mp4,0\n2,train,b.mp4,nan\n", "train clips with missing labels"),
        (HEADER + "1,train,a.mp4,\n2,val,b.mp4,0\n", "no train clip has a label"),
        ("clip_id,split,video\n1,train,a.mp4\n", "no train clip has a label: the table has no label column"),
        (HEADER + "1,train,a.mp4,1\n2,train,b.mp4,1\n", "label 'Joy' is constant in train (1)"),
        (HEADER + "1,train,a.mp4,1\n2,val,b.mp4,0\n3,val,b.mp4,0\n", "its Pearson is undefined (NaN)"),
        (HEADER + "1,train,a.mp4,1\n", "the val split is empty"),
        (HEADER + "1,val,a.mp4,1\n", "the train split is empty"),
        (
            "clip_id,split,video,mood\n1,train,a.mp4,1\n2,train,a.mp4,2\n3,val,b.mp4,9\n",
            "mood is outside [1, 2], its range in train [1 clip: 3]",
        ),
    ],
)
def test_what_costs_something_is_a_warning(table, text: str, message: str) -> None:
    start, _, end = message.partition(".*")
    assert any(start in str(warning) and end in str(warning) for warning in table(text).warnings)


def test_a_constant_label_gets_a_range_that_can_be_divided_by(table) -> None:
    (label,) = table("clip_id,split,video,mood\n1,train,a.mp4,3\n2,train,b.mp4,3\n").labels
    assert (label.low, label.high) == (3.0, 4.0)


def test_a_missing_label_is_null_however_it_is_written(table) -> None:
    rows = "".join(
        f"{number},train,a.mp4,{blank}\n" for number, blank in enumerate(["0.5", "", "NaN", "NA", "null"])
    )
    assert table(HEADER + rows).clips["Joy"].to_pylist() == [0.5, None, None, None, None]


def test_files_are_checked_behind_uris_and_unknown_places_are_said_to_be_unchecked(
    table, tmp_path: Path
) -> None:
    (tmp_path / "a b.mp4").write_bytes(b"video")
    corpus = table(
        f"clip_id,video\n1,file://{tmp_path}/a%20b.mp4\n2,file://{tmp_path}/gone.mp4\n3,https://example.org/c.mp4\n4,nowhere://c/d.mp4\n"
    )
    found = {f.message.split(": ", 1)[1]: f.examples for f in corpus.findings if "video:" in f.message}
    assert found == {
        "video: the file is missing. Such clips are quarantined, unless they have features": ("2",),
        "video: web addresses are not read. Such clips will be quarantined: download them": ("3",),
        "video: not checked, because the folder cannot be listed from here": ("4",),
    }


def test_a_finding_counts_its_clips_and_names_the_first_five(table) -> None:
    rows = "".join(f"{number},train,gone.mp4,0.{number}\n" for number in range(1, 8))
    (missing,) = (f for f in table(HEADER + "0,train,a.mp4,0\n" + rows).warnings if "missing" in f.message)
    assert str(missing).endswith("[7 clips: 1, 2, 3, 4, 5, …]")


def test_what_there_is_is_said_for_each_split(table) -> None:
    corpus = table("clip_id,split,video,transcript,Joy\n1,train,a.mp4,hi,0\n2,train,,hi,\n3,test,a.mp4,,\n")
    messages = [f.message for f in corpus.findings]
    assert "labels: Joy [0, 1]." in messages
    assert (
        "train: 2 clips, 1 labelled; text 2 (100.0%), audio 1 (50.0%), vision 1 (50.0%), motion 1 (50.0%)."
        in messages
    )


def test_warnings_come_before_facts(table) -> None:
    severities = [f.severity for f in table(HEADER + "1,train,a.mp4,0\n").findings]
    assert severities == sorted(severities, reverse=True)
