"""Verbs about hyper-parameter searches: tune, dashboard."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from emi_ray.api import training
from emi_ray.cli.app import AddressOption, Overrides, WorkspaceOption, app, console
from emi_ray.workspace import Workspace

StorageOption = Annotated[
    str | None,
    typer.Option(
        envvar="EMI_RAY_STORAGE",
        help="Database of the study (postgresql://…); none: a journal in the workspace.",
    ),
]


@app.command()
def tune(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe, or path of a YAML file: where to start.")],
    workspace: WorkspaceOption,
    space: Annotated[Path, typer.Option(help="YAML file of what may vary, as in search_spaces/.")],
    overrides: Overrides = None,
    trials: Annotated[
        int, typer.Option(help="Finished trials in all, with those of earlier commands.", min=1)
    ] = training.DEFAULT_TRIALS,
    study: Annotated[str | None, typer.Option(help="Name of the study; none: RECIPE-SPACE.")] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds after which no new trial starts.", min=1)
    ] = None,
    metric: Annotated[
        str, typer.Option(help="Score to tune: val_pearson, val_ccc, val_pearson_joy, …")
    ] = "val_pearson",
    minimise: Annotated[
        Literal["parameters", "seconds"] | None,
        typer.Option(help="A second objective: of the model, or of its training."),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            help="Folds of train to tune on; 1: one part is held out; none given: 3 below 2,000 train clips.",
            min=1,
        ),
    ] = None,
    holdout: Annotated[
        float | None,
        typer.Option(
            help="Share of train that is held out, with --folds 1; none given: 0.2.", min=0.01, max=0.9
        ),
    ] = None,
    sampler: Annotated[
        Literal["tpe", "gp", "random", "nsga2"], typer.Option(help="Who proposes trials.")
    ] = "tpe",
    scheduler: Annotated[
        Literal["asha", "median", "none"] | None,
        typer.Option(help="Who stops hopeless ones; none given: asha for one objective."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the sampler.", min=0)] = 0,
    concurrent: Annotated[
        int | None, typer.Option(help="Trials at once; none given: as many as fit.", min=1)
    ] = None,
    gpus_per_trial: Annotated[
        float | None, typer.Option(help="Share of a GPU; none given: by its memory.", min=0)
    ] = None,
    confirm: Annotated[
        int,
        typer.Option(
            help="Best trials that are trained again under other seeds before one is chosen.", min=0
        ),
    ] = 3,
    seeds: Annotated[
        int, typer.Option(help="Seeds that judge the choice on the official split; 0: do not judge.", min=0)
    ] = 3,
    storage: StorageOption = None,
    mlflow: Annotated[
        str | None, typer.Option(help="MLflow server or database (sqlite:///…) to log trials to, too.")
    ] = None,
    address: AddressOption = None,
) -> None:
    """Search for better settings of a recipe. Stopped at any moment, the same command goes on.

    Example: emi-ray tune -w work f2 --space search_spaces/fusion.yaml --trials 100
    """
    from emi_ray.cli.tuning_view import show_outcome, study_progress
    from emi_ray.tuning.mlflow_log import mlflow_logger
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
    log = mlflow_logger(mlflow, options.study) if mlflow else None
    plan = training.plan_search(target, recipe, overrides or (), options)
    with study_progress(options, log) as view:
        outcome = training.run_search(plan, address=address, on_change=view.update, on_note=view.note)
    if outcome is not None:
        show_outcome(outcome, options.study, target)


@app.command()
def dashboard(
    workspace: WorkspaceOption,
    study: Annotated[str | None, typer.Option(help="Study to show; none given: the latest.")] = None,
    port: Annotated[
        int, typer.Option(help="Of optuna-dashboard; TensorBoard takes the next free one.")
    ] = 8080,
    storage: StorageOption = None,
    address: AddressOption = None,
) -> None:
    """Watch studies and runs in a browser on this machine, until Ctrl-C.

    Example: emi-ray dashboard -w work
    """
    from emi_ray.tuning.dashboard import serve

    serve(Workspace(workspace), study, port, storage, address, console.print)
