from pathlib import Path

import pytest
import typer

from emi_ray.cli import main
from emi_ray.cli.app import app

VERBS = sorted(typer.main.get_command(app).commands)


def exit_code(*arguments: str) -> int:
    try:
        main(arguments)
    except SystemExit as ending:
        return int(ending.code or 0)
    return 0


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_with_an_example(verb, capsys):
    assert exit_code(verb, "--help") == 0
    assert "Example: emi-ray" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["extract", "-w", "/nowhere"], "No workspace at /nowhere"),
        (["train", "f2", "-w", "/nowhere"], "Create one with emi-ray init"),
        (["init", "-w", "W", "--corpus", "table", "--source", "/nowhere.csv"], "/nowhere.csv"),
        (["predict", "f2/42", "-w", "/nowhere", "--to", "x.csv"], "has no runs yet"),
        (["predict", "f2/42", "stray.mp4", "-w", "/nowhere", "--to", "x.csv"], "--clips"),
        (["evaluate", "f2/42", "-w", "/nowhere"], "emi-ray train"),
        (["extract"], "Missing option"),
        (["extrct"], "No such command"),
    ],
)
def test_a_users_mistake_is_one_message_and_exit_code_2(arguments, says, capsys):
    assert exit_code(*arguments) == 2
    errors = capsys.readouterr().err
    assert says in errors
    assert "Traceback" not in errors


def test_an_unknown_recipe_is_named_with_those_there_are(demo_corpus: Path, tmp_path: Path, capsys):
    source = str(demo_corpus)
    assert exit_code("init", "-w", str(tmp_path), "--corpus", "demo", "--source", source) == 0
    assert exit_code("train", "fusion", "-w", str(tmp_path)) == 2
    assert "There is no recipe 'fusion'" in capsys.readouterr().err


def test_an_unknown_modality_is_named_with_the_nearest(demo_corpus: Path, tmp_path: Path, capsys):
    exit_code("init", "-w", str(tmp_path), "--corpus", "demo", "--source", str(demo_corpus))
    assert exit_code("extract", "-w", str(tmp_path), "--modalities", "audoi") == 2
    assert "did you mean 'audio'" in capsys.readouterr().err
