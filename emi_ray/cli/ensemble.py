"""The verb ensemble: several runs as one."""

from typing import Annotated, Literal

import typer

from emi_ray.cli.app import WorkspaceOption, app, console
from emi_ray.workspace import Workspace


@app.command()
def ensemble(
    workspace: WorkspaceOption,
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Runs (f2/42), or recipes with all seeds (f2).")
    ],
    name: Annotated[str, typer.Option(help="Name of the ensemble, as of a recipe.")] = "ensemble",
    weights: Annotated[
        Literal["mean", "fitted"],
        typer.Option(
            help="fitted: for each label and set of modalities, from folds of the validation clips."
        ),
    ] = "mean",
    seed: Annotated[int, typer.Option(help="Second part of its name; draws the folds.")] = 42,
) -> None:
    """Make one system of several finished runs; predict, evaluate, compare and report take it like any other run.

    Example: emi-ray ensemble -w work f2 ours/42 --name both --weights fitted
    """
    import re

    from emi_ray.ensembles import build_ensemble
    from emi_ray.errors import UserError

    target = Workspace(workspace)
    target.config()  # a workspace must be there
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", name):
        raise UserError(f"--name {name}: use small letters, digits, '.', '_' and '-'.")
    metrics = build_ensemble(target, runs, name, weights, seed)
    value = metrics["val_pearson"]
    shown = "not defined" if value is None else f"{value:.4f}"
    console.print(
        f"Wrote run {name}/{seed} of {len(metrics['members'])} members: mean validation Pearson {shown} over "
        f"{metrics['num_val']} clips.",
        soft_wrap=True,
    )
