"""The verb recipes: the systems that can be trained."""

from typing import Annotated

import typer
from rich import box
from rich.table import Table

from emi_ray.cli.app import app, console


@app.command()
def recipes(
    plain: Annotated[bool, typer.Option("--plain", help="Names only, one a line.")] = False,
) -> None:
    """What can be trained, and what the papers report of it.

    Example: emi-ray recipes
    """
    from emi_ray.recipe import PaperResult, load_recipe, recipe_names

    if plain:
        for name in recipe_names():
            typer.echo(name)
        return
    table = Table(
        title="Recipes, with the mean Pearson r that their papers report",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("name", no_wrap=True)
    for heading in ("system", "modalities", "where"):
        table.add_column(heading)
    for heading in ("val", "test"):
        table.add_column(heading, justify="right")
    for recipe in map(load_recipe, recipe_names()):
        paper = recipe.paper or PaperResult()
        place = paper.source or (f"table {paper.table}" if paper.table else "")
        numbers = (paper.val_pearson, paper.test_pearson)
        shown = ("–" if number is None else f"{number:.3f}" for number in numbers)
        table.add_row(recipe.name, recipe.title, " ".join(recipe.modalities), place, *shown)
    console.print(table)
