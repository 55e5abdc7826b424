"""Commands for hyper-parameter searches: tune, dashboard."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from emi_ray.api import training
from emi_ray.cli.app import AddressOption, Overrides, WorkspaceOption, app
from emi_ray.cli.terminal import console
from emi_ray.workspace import Workspace

StorageOption = Annotated[
    str | None,
    typer.Option(
        envvar="EMI_RAY_STORAGE",
        help="Database URL of the study, such as postgresql://… (default: a journal file in the workspace).",
    ),
]


@app.command()
def tune(
    recipe: Annotated[str, typer.Argument(help="Recipe to start from: a name, or the path of a YAML file.")],
    workspace: WorkspaceOption,
    space: Annotated[Path, typer.Option(help="Search space: a YAML file, see search_spaces/ for examples.")],
    overrides: Overrides = None,
    trials: Annotated[
        int,
        typer.Option(help="Total number of finished trials, including those of earlier commands.", min=1),
    ] = training.DEFAULT_TRIALS,
    study: Annotated[str | None, typer.Option(help="Name of the study (default: RECIPE-SPACE).")] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Time limit in seconds; no new trial starts after it.", min=1)
    ] = None,
    metric: Annotated[
        str, typer.Option(help="Score to optimise: val_pearson, val_ccc, val_pearson_joy, …")
    ] = "val_pearson",
    minimise: Annotated[
        Literal["parameters", "seconds"] | None,
        typer.Option(
            help="Second objective to minimise: number of model parameters, or training time in seconds."
        ),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            help="Number of cross-validation folds of train; 1 uses one held-out part (default: 3 if there are "
            "fewer than 2,000 train clips, else 1).",
            min=1,
        ),
    ] = None,
    holdout: Annotated[
        float | None,
        typer.Option(
            help="With --folds 1: share of train that is held out for scoring (default: 0.2).",
            min=0.01,
            max=0.9,
        ),
    ] = None,
    sampler: Annotated[
        Literal["tpe", "gp", "random", "nsga2"],
        typer.Option(help="Optuna sampler that proposes hyper-parameters."),
    ] = "tpe",
    scheduler: Annotated[
        Literal["asha", "median", "none"] | None,
        typer.Option(help="Early-stopping scheduler (default: asha when there is one objective)."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed of the sampler.", min=0)] = 0,
    concurrent: Annotated[
        int | None,
        typer.Option(
            help="Maximum number of concurrent trials (default: as many as the machine fits).", min=1
        ),
    ] = None,
    gpus_per_trial: Annotated[
        float | None,
        typer.Option(help="Fraction of a GPU for each trial (default: from the GPU's memory).", min=0),
    ] = None,
    confirm: Annotated[
        int,
        typer.Option(
            help="Number of best trials that are retrained with other seeds before the final choice.", min=0
        ),
    ] = 3,
    seeds: Annotated[
        int,
        typer.Option(
            help="Number of seeds for the final comparison with the baseline on the official split; 0 skips it.",
            min=0,
        ),
    ] = 3,
    storage: StorageOption = None,
    address: AddressOption = None,
) -> None:
    """Search for better hyper-parameters of a recipe. To resume an interrupted search, repeat the command.

    Example: emi-ray tune -w work f2 --space search_spaces/fusion.yaml --trials 100
    """
    from emi_ray.cli.tuning_view import show_study_result, study_progress
    from emi_ray.tuning.tune import TuneOptions

    target = Workspace(workspace)
    options = TuneOptions(
        space=space,
        study=study or training.study_name(recipe, space),
        trials=trials,
        timeout_s=timeout,
        metric=metric,
        minimise=minimise,
        folds=folds,
        holdout=holdout,
        sampler=sampler,
        scheduler=scheduler,
        seed=seed,
        concurrent=concurrent,
        gpus_per_trial=gpus_per_trial,
        confirm=confirm,
        seeds=seeds,
        storage=storage,
    )
    plan = training.plan_search(target, recipe, overrides or (), options)
    with study_progress(options) as view:
        outcome = training.run_search(plan, address=address, on_change=view.update, on_note=view.note)
    if outcome is not None:
        show_study_result(outcome, options.study, target)


@app.command()
def dashboard(
    workspace: WorkspaceOption,
    study: Annotated[str | None, typer.Option(help="Study to show (default: the latest).")] = None,
    port: Annotated[
        int, typer.Option(help="Port of optuna-dashboard; TensorBoard uses the next free port.")
    ] = 8080,
    storage: StorageOption = None,
    address: AddressOption = None,
) -> None:
    """Serve dashboards of studies and runs to a browser on this machine until Ctrl-C is pressed.

    Example: emi-ray dashboard -w work
    """
    from emi_ray.tuning.dashboard import serve

    serve(Workspace(workspace), study, port, storage, address, console.print)
