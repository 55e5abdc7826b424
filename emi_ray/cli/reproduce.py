"""Commands that reproduce the paper: reproduce, stats."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emi_ray.cli.app import AddressOption, WorkspaceOption, app
from emi_ray.cli.progress import training_progress
from emi_ray.cli.tables import compact_table
from emi_ray.cli.terminal import console
from emi_ray.errors import UserError
from emi_ray.workspace import Workspace

if TYPE_CHECKING:
    from emi_ray.reporting.text_tables import TextTable

ALL_TABLES = "3,4,5,ablation,rivals"
TABLES_HELP = (
    "Comma-separated tables to fill; 'twins' are the paper's systems trained with our settings (text, …)."
)


@app.command()
def reproduce(
    workspace: WorkspaceOption,
    tables: Annotated[str, typer.Option(help=TABLES_HELP)] = ALL_TABLES,
    seeds: Annotated[int, typer.Option(help="Number of seeds for each system.", min=1)] = 5,
    any_features: Annotated[
        bool,
        typer.Option(
            "--any-features",
            help="Train on the workspace's features, whichever extractor a recipe names.",
        ),
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SECTION.KEY=VALUE",
            help="Settings that override those of every recipe that has the section.",
        ),
    ] = None,
    address: AddressOption = None,
) -> None:
    """Fill the tables of the paper: train the missing runs, and show our scores next to the paper's.

    To resume an interrupted command, repeat it. A row that cannot be trained, for example because its features are
    missing, gives the reason.

    Example: emi-ray reproduce -w work --tables 4,5 --seeds 3
    """
    from emi_ray.reproduction import FOLDER, load_recipes, reproduce
    from emi_ray.runtime import ray_session
    from emi_ray.tracking import tracking

    target = Workspace(workspace)
    config = target.config()
    if stray := [setting for setting in settings or [] if "=" not in setting]:
        raise UserError(f"'{stray[0]}' is not a setting (SECTION.KEY=VALUE). Name tables with --tables.")
    names = [name for name in tables.split(",") if name]
    defaults = config.recipe_defaults
    recipes = load_recipes(names, settings or [], defaults, any_features)
    with (
        tracking(target, config.tracking),
        ray_session(address),
        training_progress(list(recipes.values()), len(recipes) * seeds) as progress,
    ):
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
        Path | None, typer.Option(help="Also write the tables to this file (.md, .tex or .csv).")
    ] = None,
) -> None:
    """Print corpus statistics as in section 3 of the paper: clips, labels, train-to-val shift, lengths, text.

    Example: emi-ray stats -w work --to stats.tex
    """
    from emi_ray.reporting.statistics_tables import statistics_tables
    from emi_ray.reporting.text_tables import csv_text, latex_document, markdown

    target = Workspace(workspace)
    target.config()  # raises UserError if there is no workspace
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
    """Print formatted tables, each followed by its note."""
    for each in tables:
        shown = compact_table(each.title)
        for index, heading in enumerate(each.headings):
            # Numbers must not be folded, so their columns are as wide as the longest.
            widest = max((len(row[index]) for row in each.rows), default=0)
            numeric = index > 0
            shown.add_column(
                heading,
                justify="right" if numeric else "left",
                overflow="fold",
                min_width=widest if numeric else None,
            )
        for row in each.rows:
            shown.add_row(*row)
        console.print(shown)
        if each.note:
            console.print(each.note)
