"""The tutorial and the examples do what they say: the commands are run in their order and print what the page shows.

Of an output each line that is shown must come, in that order. A decimal stands for any decimal, ``…`` for any text,
and spaces and lines of tables for as many as there are; whole numbers and words must be the same.
"""

import doctest
import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from importlib import import_module
from io import StringIO
from pathlib import Path

import pytest
import typer

from emi_ray.cli import main

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(
    r"^(?:<!-- (?P<skipped>not run)[^\n]*\n)?```(?P<kind>sh|text|pycon)\n(?P<body>.*?)^```", re.M | re.S
)
_NUMBER = r"[+-]?\d+\.\d+"


def as_pattern(line: str) -> str:
    """A regular expression for a line of the page."""
    words = re.split(rf"(…|{_NUMBER}|\s+)", line.strip())
    special = {"…": ".*"}
    parts = [
        special.get(word)
        or (r"\s+" if word.isspace() else _NUMBER if re.fullmatch(_NUMBER, word) else re.escape(word))
        for word in words
        if word
    ]
    return "".join(parts)


def check(shown: str, printed: str) -> None:
    """Each line that is shown begins, behind spaces, a later line of what was printed."""
    lines = iter(printed.splitlines())
    for wanted in filter(str.strip, shown.splitlines()):
        pattern = re.compile(as_pattern(wanted))
        assert any(pattern.match(line.strip()) for line in lines), f"'{wanted}' is not in:\n{printed}"


def run(command: str) -> str:
    """What a command prints. Those of emi-ray run in this process, so that they share its Ray session."""
    program, *arguments = shlex.split(command)
    if program != "emi-ray":
        return subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout
    printed = StringIO()
    with redirect_stdout(printed), redirect_stderr(printed), pytest.raises(SystemExit) as ending:
        main(arguments)
    assert not ending.value.code, printed.getvalue()
    return printed.getvalue()


def run_examples(body: str, names: dict[str, object]) -> None:
    test = doctest.DocTestParser().get_doctest(body, names, "tutorial", "docs/tutorial.md", 0)
    told: list[str] = []
    results = doctest.DocTestRunner().run(test, out=told.append, clear_globs=False)
    names.update(test.globs)
    assert not results.failed, "".join(told)


@dataclass
class Tutorial:
    """The folder that the tutorial leaves, and beside each output that it shows what was printed."""

    folder: Path
    outputs: list[tuple[str, str]] = field(default_factory=list)
    num_skipped: int = 0


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Iterator[Tutorial]:
    """The tutorial, done."""
    done, printed, names = Tutorial(tmp_path_factory.mktemp("tutorial")), "", {}
    os.symlink(ROOT / "search_spaces", done.folder / "search_spaces")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(done.folder)
        patch.setenv("COLUMNS", "160")
        for block in _BLOCK.finditer((ROOT / "docs" / "tutorial.md").read_text()):
            kind, body = block["kind"], block["body"]
            if block["skipped"]:
                done.num_skipped += 1
            elif kind == "sh":
                printed = "".join(run(command) for command in body.splitlines())
            elif kind == "pycon":
                run_examples(body, names)
            else:
                done.outputs.append((body, printed))
        yield done


@pytest.mark.timeout(600)
def test_the_tutorial(tutorial: Tutorial) -> None:
    assert tutorial.num_skipped == 1, "only the installation is left out"
    assert len(tutorial.outputs) >= 10
    for shown, printed in tutorial.outputs:
        check(shown, printed)


EXAMPLES = ROOT / "examples"


@pytest.fixture
def in_folder(tutorial: Tutorial, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tutorial's folder, where examples are run one after the other."""
    monkeypatch.chdir(tutorial.folder)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    return tutorial.folder


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("own_clips", ["demo/corpus/clips.csv", "own"], "Empathic Pain: r = "),
        ("features_in_torch", ["demo", "audio"], "prosody: mean r on 14 validation clips"),
        ("compare_recipes", ["demo", "text", "audio"], "text and audio do not differ significantly"),
        (
            "plot_intensities",
            ["demo/runs/audio/1", "out.png", "demo/corpus/media/demo_00001.mp4"],
            "Wrote out.png",
        ),
        ("own_extractor", ["own"], "48 clips done, 0 failed"),
    ],
)
def test_an_example(name: str, arguments: list[str], says: str, in_folder: Path, capsys) -> None:
    program = typer.Typer()
    program.command()(import_module(f"examples.{name}").main)
    program(arguments, standalone_mode=False)
    assert says in capsys.readouterr().out


def test_every_example_is_run() -> None:
    tested = {case[0] for mark in test_an_example.pytestmark for case in mark.args[1:] for case in case}
    assert tested == {path.stem for path in EXAMPLES.glob("*.py")}


def test_the_notebook(in_folder: Path) -> None:
    notebook = json.loads((EXAMPLES / "own_clips_to_plot.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] for cell in cells), "it lies there executed"
    names: dict[str, object] = {}
    for cell in cells:
        exec("".join(cell["source"]), names)  # its last line, which a notebook shows, is passed over
    assert len(names["predicted"]) == 5  # type: ignore[arg-type]
