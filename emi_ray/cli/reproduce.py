"""Verbs about the paper: reproduce, stats."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from emi_ray.cli.app import AddressOption, WorkspaceOption, app, console
from emi_ray.cli.show import training_progress
from emi_ray.errors import UserError
from emi_ray.workspace import Workspace

if TYPE_CHECKING:
    from emi_ray.reporting.text_tables import TextTable

ALL_TABLES = "3,4,5,ablation,rivals"
TABLES_HELP = "Tables to fill, joined by commas; twins: the paper's systems with our settings (text, f2, …)."


@app.command()
def reproduce(
    workspace: WorkspaceOption,
    tables: Annotated[str, typer.Option(help=TABLES_HELP)] = ALL_TABLES,
    seeds: Annotated[int, typer.Option(help="Seeds of each system.", min=1)] = 5,
    any_features: Annotated[
        bool, typer.Option("--any-features", help="On whatever features there are, not those it names.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SECTION.KEY=VALUE]...", help="Settings, for the recipes that have such a part."
        ),
    ] = None,
    address: AddressOption = None,
) -> None:
    """Fill the tables of the paper: train what is missing, set ours beside the paper's figures.

    The same command resumes what was interrupted. A row that cannot be trained, as without its features, says why.

    Example: emi-ray reproduce -w work --tables 4,5 --seeds 3
    """
    from emi_ray.reproduction import FOLDER, load_recipes, reproduce
    from emi_ray.runtime import ray_session

    target = Workspace(workspace)
    config = target.config()
    if stray := [setting for setting in settings or [] if "=" not in setting]:
        raise UserError(f"'{stray[0]}' is no setting: SECTION.KEY=VALUE. Tables are named by --tables.")
    names = [name for name in tables.split(",") if name]
    defaults = config.recipe_defaults
    recipes = load_recipes(names, settings or [], defaults, any_features)
    with ray_session(address), training_progress(list(recipes.values()), len(recipes) * seeds) as progress:
        made = reproduce(
            target,
            names,
            recipes,
            seeds,
            config,
            on_progress=progress.advance,
            on_plan=progress.plan,
            on_result=lambda result: progress.settle(f"{result.recipe.name}/{result.seed}"),
        )
    show_tables(made)
    console.print(f"Wrote tables.md, tables.tex and tables.csv to {target.path(FOLDER)}.")


@app.command()
def stats(
    workspace: WorkspaceOption,
    to: Annotated[
        Path | None, typer.Option(help="File to write as well: .md, .tex or .csv by its ending.")
    ] = None,
) -> None:
    """Describe the corpus as section 3 of the paper does: clips, zeros, shift from train to val, lengths, text.

    Example: emi-ray stats -w work --to stats.tex
    """
    from emi_ray.reporting.statistics import statistics_tables
    from emi_ray.reporting.text_tables import csv_text, latex_document, markdown

    target = Workspace(workspace)
    target.config()  # a workspace must be there
    writers = {".md": markdown, ".csv": csv_text, ".tex": lambda made: latex_document(made, "Corpus")}
    if to is not None and to.suffix not in writers:
        raise UserError(f"--to {to}: the file must end in {', '.join(writers)}.")
    made = statistics_tables(target)
    show_tables(made)
    if to is not None:
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_text(writers[to.suffix](made))
        console.print(f"Wrote {to}.")


def show_tables(tables: list["TextTable"]) -> None:
    """Tables of finished text, each with its note."""
    for each in tables:
        shown = Table(title=each.title)
        for index, heading in enumerate(each.headings):
            shown.add_column(heading, justify="right" if index else "left", overflow="fold")
        for row in each.rows:
            shown.add_row(*row)
        console.print(shown)
        if each.note:
            console.print(each.note, markup=False, soft_wrap=True)
