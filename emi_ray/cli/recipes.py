"""The command ``recipes``: list the systems that can be trained."""

from typing import Annotated

import typer
from rich.text import Text

from emi_ray.cli.app import app
from emi_ray.cli.tables import compact_table
from emi_ray.cli.terminal import console


@app.command()
def recipes(
    plain: Annotated[bool, typer.Option("--plain", help="Print names only, one per line.")] = False,
) -> None:
    """List the recipes that can be trained, with the scores that their papers report.

    Example: emi-ray recipes
    """
    from emi_ray.recipe.loading import load_recipe, recipe_names
    from emi_ray.recipe.sections import PaperResult

    if plain:
        for name in recipe_names():
            typer.echo(name)
        return
    table = compact_table("Recipes, with the mean Pearson r that their papers report")
    table.add_column("name and system", min_width=36)
    for heading in ("sees", "where"):
        table.add_column(heading, min_width=4)
    for heading in ("val", "test"):
        table.add_column(heading, justify="right", no_wrap=True, min_width=5)
    for recipe in map(load_recipe, recipe_names()):
        paper = recipe.paper or PaperResult()
        place = paper.source or (f"table {paper.table}" if paper.table else "")
        numbers = (paper.val_pearson, paper.test_pearson)
        shown = ("–" if number is None else f"{number:.3f}" for number in numbers)
        sees = "".join(modality[0].upper() for modality in recipe.modalities)
        table.add_row(Text.assemble((recipe.name, "bold"), f"\n{recipe.title}"), sees, place, *shown)
    console.print(table)
    console.print("Sees: T text, A audio, V vision, M motion.")
