"""The tutorial does what it says: its commands are run in their order, and their outputs are those of the page.

Of an output each line that is shown must come, in that order. A decimal stands for any decimal, ``…`` for any text,
and spaces and lines of tables for as many as there are; whole numbers and words must be the same.
"""

import doctest
import os
import re
import shlex
import subprocess
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from emi_ray.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session")]

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


@pytest.mark.timeout(600)
def test_the_tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    os.symlink(ROOT / "search_spaces", tmp_path / "search_spaces")
    printed, names, skipped = "", {}, 0
    for block in _BLOCK.finditer((ROOT / "docs" / "tutorial.md").read_text()):
        kind, body = block["kind"], block["body"]
        if block["skipped"]:
            skipped += 1
        elif kind == "sh":
            printed = "".join(run(command) for command in body.splitlines())
        elif kind == "pycon":
            run_examples(body, names)
        else:
            check(body, printed)
    assert skipped == 1, "only the installation is left out"
