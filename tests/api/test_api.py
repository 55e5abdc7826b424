"""The public interface of ``import emi_ray``, without Ray."""

import dataclasses
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import emi_ray

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "api.md"


def test_every_public_name_is_there_and_documented():
    for name in emi_ray.__all__:
        assert getattr(emi_ray, name).__doc__, name
    assert set(dir(emi_ray)) == {*emi_ray.__all__, "__version__"}
    with pytest.raises(AttributeError, match="nothing"):
        _ = emi_ray.nothing


def test_every_public_name_is_on_the_page_of_the_reference():
    names = set(re.findall(r"^::: emi_ray\.[\w.]+\.(\w+)$", PAGE.read_text(), re.MULTILINE))
    assert names == set(emi_ray.__all__)


def classes_in(hint: Any) -> Iterator[type]:
    if isinstance(hint, type):
        yield hint
    for argument in get_args(hint):
        yield from classes_in(argument)


def what_it_holds(public: Any) -> Iterator[type]:
    """The classes of this package among the fields and properties of a public class."""
    hints = list(get_type_hints(public).items()) if dataclasses.is_dataclass(public) else []
    hints += [
        (name, get_type_hints(value.fget).get("return"))
        for name, value in vars(public).items()
        if isinstance(value, property)
    ]
    for name, hint in hints:
        if not name.startswith("_"):
            yield from (each for each in classes_in(hint) if each.__module__.startswith("emi_ray"))


def test_what_public_functions_return_is_public_too():
    public = [getattr(emi_ray, name) for name in emi_ray.__all__]
    returned = {
        word
        for each in public
        if not isinstance(each, type)
        for word in re.findall(r"[A-Z]\w+", str(each.__annotations__["return"]))
    }
    assert returned - {"Any", "None"} <= set(emi_ray.__all__)
    held = {found.__name__ for each in public if isinstance(each, type) for found in what_it_holds(each)}
    assert held <= set(emi_ray.__all__)


@pytest.mark.parametrize("module", ["emi_ray", "emi_ray.api.training", "emi_ray.cli"])
def test_importing_is_cheap(module):
    """The command line shows its first line before Ray and torch are imported."""
    heavy = ["torch", "ray", "pandas", "optuna", "matplotlib", "transformers", "cv2", "av", "librosa"]
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_settings_are_a_mapping_or_a_list():
    from emi_ray.api.inputs import overrides_of

    wanted = ["training.epochs=3", "encoders.text.hidden=16"]
    assert overrides_of(wanted) == wanted
    assert overrides_of({"training.epochs": 3, "corpus.labels": ["Joy"]}) == [
        "training.epochs=3",
        'corpus.labels=["Joy"]',
    ]
    with pytest.raises(emi_ray.UserError, match="give a list"):
        overrides_of("training.epochs=3")


def test_a_model_is_named_by_the_folder_of_its_run(tmp_path):
    with pytest.raises(emi_ray.UserError, match="WORKSPACE/runs/RECIPE/SEED"):
        emi_ray.load_model(tmp_path)


def test_the_command_says_its_version():
    done = subprocess.run(
        [sys.executable, "-m", "emi_ray", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"emi-ray {emi_ray.__version__}"


def test_a_corpus_describes_itself_in_a_line_and_its_warnings_are_issued(tmp_path):
    table = tmp_path / "clips.csv"
    rows = [
        "clip_id,split,transcript,Joy",
        "a,train,one,0.1",
        "b,train,one two,0.7",
        "c,val,two,",
        "d,val,two,0.3",
    ]
    table.write_text("\n".join(rows))
    with pytest.warns(UserWarning, match="Joy"):
        corpus = emi_ray.init(tmp_path / "work", table)
    assert repr(corpus) == "Corpus(4 clips: train 2, val 2; 1 label; 1 warning)"
