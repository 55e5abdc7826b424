"""Names of labels that would collide with each other, or with what stands beside them in tables of results."""

from pathlib import Path

import numpy as np
import pytest
from table_files import read_text_table

from emi_ray.errors import UserError
from emi_ray.metrics import compute_scores
from emi_ray.schema import EMOTIONS, Label, snake
from emi_ray.settings import apply_overrides


def with_labels(folder: Path, *names: str, **settings: object):
    values = ",".join("0.5" for _ in names)
    header = ",".join(f'"{name}"' for name in names)
    return read_text_table(folder, f"clip_id,split,video,{header}\n1,train,a.mp4,{values}\n", **settings)


@pytest.mark.parametrize(
    "name", ["mean", "Mean", "modalities", "true_Joy", "True_mood", "scored", "Filename", "chosen on val"]
)
def test_names_that_tables_of_results_use_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"a label cannot be named '{name}'.*Rename the column"):
        with_labels(tmp_path, "Joy", name, label_ranges={name: (0, 1)})
    assert with_labels(tmp_path, "Joy", name, labels=["Joy"]).labels == (Label("Joy"),)


@pytest.mark.parametrize(
    "names",
    [
        ("радость", "гнев"),
        ("喜び", "怒り"),
        ("कि", "की"),
        ("فرح", "غضب"),
        ("😀", "😭"),
        ("Freude", "Fröude"),
    ],
)
def test_labels_of_any_script_have_scores_of_their_own(tmp_path: Path, names: tuple[str, str]) -> None:
    corpus = with_labels(tmp_path, *names)
    assert [label.name for label in corpus.labels] == list(names)
    values = np.random.default_rng(0).random((5, 2))
    found = compute_scores(values, values, corpus.labels)
    assert all(f"val_pearson_{snake(name)}" in found and snake(name) for name in names)
    assert len({snake(name) for name in names}) == 2


@pytest.mark.parametrize(
    "names", [("my label", "My-Label"), ("caf\u00e9", "cafe\u0301"), ("joy", "Joy"), ("a b", "a  b")]
)
def test_labels_that_are_one_name_in_scores_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    with pytest.raises(UserError, match="have the same name in scores"):
        with_labels(tmp_path, *names)


def test_the_names_of_the_six_emotions_are_as_before() -> None:
    assert [snake(name) for name in EMOTIONS] == [
        *("admiration", "amusement", "determination", "empathic_pain", "excitement", "joy")
    ]


@pytest.mark.parametrize("name", ["joy.v2", "a=b"])
def test_the_remedy_for_a_range_works_whatever_the_name(tmp_path: Path, name: str) -> None:
    text = f"clip_id,split,video,{name}\n1,train,a.mp4,7\n"
    with pytest.raises(UserError) as refusal:
        read_text_table(tmp_path, text, label_ranges={name: (0, 1)})
    setting = str(refusal.value).rpartition("declare another range: '")[2].partition("'")[0]
    settings = apply_overrides({}, [setting.replace("LOW", "0").replace("HIGH", "10")])["corpus"]
    assert read_text_table(tmp_path, text, **settings).labels == (Label(name, 0.0, 10.0),)


def test_a_name_with_a_line_break_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="contains a line break"):
        with_labels(tmp_path, "Jo\ny")
