"""The examples in the docstrings of the public API, run one after the other in one folder, as a reader would."""

import doctest
import inspect
import random
from pathlib import Path

import pytest

import emi_ray
from emi_ray import features
from emi_ray.api import data, results, training

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session")]

WORDS = {"Joy": ["glad", "happy", "sunny"], "Fear": ["afraid", "dark", "alone"]}


def write_tables(folder: Path) -> None:
    """A corpus of 48 sentences about two labels, two new ones, and a search space."""
    draw = random.Random(0)
    rows = ["clip_id,split,transcript,Joy,Fear"]
    for number in range(48):
        joy, fear = draw.random(), draw.random()
        words = draw.choices(WORDS["Joy"], k=round(5 * joy)) + draw.choices(WORDS["Fear"], k=round(5 * fear))
        rows.append(
            f"clip{number:02},{'train' if number < 32 else 'val'},{' '.join(words)},{joy:.2f},{fear:.2f}"
        )
    (folder / "clips.csv").write_text("\n".join(rows) + "\n")
    (folder / "new.csv").write_text("clip_id,transcript\na,so happy and glad\nb,alone in the dark\n")
    (folder / "space.yaml").write_text("parameters:\n  encoders.text.dropout: {uniform: [0.1, 0.5]}\n")


@pytest.fixture
def reading_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_tables(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def examples_in_order() -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(recurse=False)
    order = [
        emi_ray.Settings,
        emi_ray.DecodedClip,
        data.init,
        emi_ray.Corpus,
        data.extract,
        emi_ray.ExtractionSummary,
        features.read_features,
        features.FeatureSet.to_pandas,
        features.FeatureSet.to_torch,
        training.train,
        emi_ray.RunResult,
        training.tune,
        results.evaluate,
        results.predict,
        emi_ray.Predictions,
        results.load_model,
        results.compare,
        emi_ray.Comparison,
        results.report,
    ]
    return [test for each in order for test in finder.find(each, globs={"emi_ray": emi_ray})]


def test_examples_of_the_public_api_run(reading_folder: Path) -> None:
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    tests = examples_in_order()
    told: list[str] = []
    for test in tests:
        runner.run(test, out=told.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(told)
    public = [getattr(emi_ray, name) for name in emi_ray.__all__]
    functions = {each.__name__ for each in public if inspect.isfunction(each)}
    assert functions <= {test.name for test in tests if test.examples}, "every public function has an example"
