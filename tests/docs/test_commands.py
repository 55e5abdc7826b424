"""Every command that a page or the README shows is one that the command line takes, with settings that exist."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from emi_ray.cli.app import app
from emi_ray.config import WorkspaceConfig
from emi_ray.recipe.loading import load_recipe, recipe_names
from emi_ray.settings import read_yaml, validate
from emi_ray.tuning.search_space import load_space

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "benchmarks" / "README.md"])
VERBS = typer.main.get_command(app).commands
_BLOCK = re.compile(r"^```(?:sh|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(emi-ray [a-z][^`]*)`")


def commands_of(page: Path) -> list[list[str]]:
    """The commands of ``emi-ray`` on a page, each as its arguments."""
    text = page.read_text()
    blocks = [block.replace("\\\n", " ") for block in _BLOCK.findall(text)]
    lines = [line for block in blocks for line in block.splitlines()] + _INLINE.findall(text)
    found = [re.search(r"(?:^|\s)(emi-ray [a-z].*)", line.split(" #")[0]) for line in lines]
    return [_arguments(match[1]) for match in found if match]


def _arguments(command: str) -> list[str]:
    return [part for part in shlex.split(command.removesuffix(" &"))[1:] if part != "…"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_on_a_page_is_accepted(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for parameter in (each for verb in VERBS.values() for each in verb.params):
        monkeypatch.setattr(parameter, "callback", None)  # that of -w would open the workspace
    for verb, *arguments in commands_of(page):
        assert verb in VERBS, f"{page.name}: there is no verb {verb}"
        command, settings = VERBS[verb], [part for part in arguments if re.match(r"[a-z_]+(\.\w+)+=", part)]
        if "--help" not in arguments and any(part.startswith("-w") for part in arguments):
            command.make_context(verb, list(arguments))  # ends the test where an option is unknown or missing
        _check_settings(verb, arguments, settings)


def files_of(page: Path) -> list[str]:
    """The YAML files that a page shows."""
    return re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    ("page", "number", "file"),
    [(page.stem, number, file) for page in PAGES for number, file in enumerate(files_of(page))],
)
def test_every_yaml_file_on_a_page_is_valid(page: str, number: int, file: str, tmp_path: Path) -> None:
    path = tmp_path / "shown.yaml"
    path.write_text(file)
    content = read_yaml(file, page)
    if "parameters" in content:
        load_space(path)
    elif "encoders" in content:
        load_recipe(str(path))
    else:
        validate(WorkspaceConfig, content, page)


def _check_settings(verb: str, arguments: list[str], settings: list[str]) -> None:
    shipped = [part for part in arguments if part in recipe_names()]
    if verb in ("train", "tune", "reproduce") and shipped:
        for recipe in shipped:
            load_recipe(recipe, settings)
    elif verb in ("init", "extract", "doctor"):
        validate(WorkspaceConfig, WorkspaceConfig().model_dump(), "emi_ray.yaml", settings)
