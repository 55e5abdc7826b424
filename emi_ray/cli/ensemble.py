"""The command ``ensemble``: combine several runs into one."""

from typing import Annotated, Literal

import typer

from emi_ray.cli.app import WorkspaceOption, app
from emi_ray.cli.terminal import console
from emi_ray.wording import plural
from emi_ray.workspace import Workspace


@app.command()
def ensemble(
    workspace: WorkspaceOption,
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN", help="Runs (f2/42), or recipes with all their seeds (f2)."),
    ],
    name: Annotated[
        str, typer.Option(help="Name of the ensemble; it takes the place of a recipe's name.")
    ] = "ensemble",
    weights: Annotated[
        Literal["mean", "fitted"],
        typer.Option(
            help="mean weighs all members equally; fitted fits weights for each label and set of modalities, "
            "cross-fitted on the validation clips."
        ),
    ] = "mean",
    seed: Annotated[
        int, typer.Option(help="Random seed of the folds, and second part of the ensemble's name.")
    ] = 42,
) -> None:
    """Combine several finished runs into one. The commands predict, evaluate, compare and report accept it as a run.

    Example: emi-ray ensemble -w work f2 ours/42 --name both --weights fitted
    """
    import re

    from emi_ray.ensembles import build_ensemble
    from emi_ray.errors import UserError

    target = Workspace(workspace)
    target.config()  # raises UserError if there is no workspace
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", name):
        raise UserError(f"--name {name}: use lower-case letters, digits, '.', '_' and '-'.")
    metrics = build_ensemble(target, runs, name, weights, seed)
    value = metrics["val_pearson"]
    shown = "not defined" if value is None else f"{value:.4f}"
    console.print(
        f"Wrote run {name}/{seed} of {plural(len(metrics['members']), 'member')}: mean validation Pearson {shown} "
        f"over {plural(metrics['num_val'], 'clip')}.",
    )
