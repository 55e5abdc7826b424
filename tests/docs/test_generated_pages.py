"""The reference pages that are generated from the code are complete."""

import sys
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from emi_ray.cli import main  # noqa: F401 - imports every verb
from emi_ray.config import WorkspaceConfig
from emi_ray.extractors import EXTRACTORS
from emi_ray.recipe.loading import recipe_names
from emi_ray.recipe.schema import Recipe

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"


@pytest.fixture(scope="module")
def fill() -> Iterator[typing.Callable[[str], str]]:
    """Source of a page → what MkDocs is given."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "docs_hooks"))
        import generated_pages

        yield generated_pages.on_page_markdown
    for name in ("generated_pages", "command_pages", "settings_pages", "table_pages", "markdown_text"):
        sys.modules.pop(name, None)


def models_within(annotation: object) -> Iterator[type[BaseModel]]:
    """A settings model, and those of its fields."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for each in annotation.model_fields.values():
            yield from models_within(each.annotation)
    for argument in typing.get_args(annotation):
        yield from models_within(argument)


@pytest.mark.parametrize(
    ("page", "model"),
    [("settings", each) for each in dict.fromkeys(models_within(WorkspaceConfig))]
    + [("recipes", each) for each in dict.fromkeys(models_within(Recipe))],
)
def test_every_setting_is_on_its_page(page: str, model: type[BaseModel], fill):
    source = (REFERENCE / f"{page}.md").read_text()
    assert f"<!-- generated: settings {model.__module__}.{model.__name__} -->" in source
    filled = fill(source)
    assert all(f"| `{name}` |" in filled for name in model.model_fields)


def test_every_verb_and_option_is_on_the_page(fill):
    import typer

    from emi_ray.cli.app import app

    filled = fill((REFERENCE / "cli.md").read_text())
    for name, command in typer.main.get_command(app).commands.items():
        assert f"## `{name}`" in filled
        shown = [each for each in command.params if not each.hidden]
        assert all(f"`{each.opts[0]}`" in filled for each in shown if each.opts[0].startswith("-"))


def test_every_extractor_and_recipe_is_on_its_page(fill):
    licences, recipes = (fill((REFERENCE / f"{page}.md").read_text()) for page in ("licences", "recipes"))
    assert all(f"| `{name}` |" in licences for name in EXTRACTORS)
    assert all(f"| `{name}` |" in recipes for name in recipe_names())


def test_bounds_and_defaults_are_those_of_the_model(fill):
    filled = fill("<!-- generated: settings emi_ray.recipe.sections.TrainingSettings -->")
    assert (
        "| `batch_size` | integer | `16` | ≥ 1 | clips per optimiser step, summed over all workers |"
        in filled
    )
    assert "| `scheduler` | `plateau` or `cosine` or `constant` | `plateau` |  |  |" in filled
