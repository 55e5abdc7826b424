"""Verbs about models: train, evaluate, predict, report."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from emi_ray.cli.app import AddressOption, Overrides, WorkspaceOption, app, console
from emi_ray.cli.show import progress_bar, show_scores
from emi_ray.errors import UserError
from emi_ray.schema import EMOTIONS, labels_of, snake
from emi_ray.workspace import Workspace

RECIPE_SECTIONS = ("training", "encoders", "fusion", "objective", "stages", "split")
RunArgument = Annotated[str, typer.Argument(help="RECIPE/SEED, as under runs/ of the workspace: f2/42.")]


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe (emi-ray recipes) or path of a YAML file.")],
    workspace: WorkspaceOption,
    overrides: Overrides = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, dropout and order; else training.seed.")] = None,
    workers: Annotated[int, typer.Option(help="Training workers.", min=1)] = 1,
    force: Annotated[bool, typer.Option(help="Train again what is already trained.")] = False,
    address: AddressOption = None,
) -> None:
    """Train a recipe: one encoder a modality, then their fusion.

    Example: emi-ray train -w work f2 --seed 1 training.epochs=30 encoders.text.hidden=256
    """
    from emi_ray.recipe import load_recipe
    from emi_ray.runtime import ray_session
    from emi_ray.training import ray_worker

    target = Workspace(workspace)
    config = target.config()
    sections = ("training", "encoders", "fusion", "objective")
    loaded = load_recipe(recipe, overrides or [], {name: getattr(config, name) for name in sections})
    chosen = loaded.training.seed if seed is None else seed
    with ray_session(address), progress_bar(f"Training {loaded.name}") as advance:
        metrics = ray_worker.train(target, loaded, config, chosen, workers, advance, force=force)
    show_scores(metrics, _headings(target))
    console.print(f"Wrote {target.path(f'runs/{loaded.name}/{chosen}')}.")


@app.command()
def evaluate(run: RunArgument, workspace: WorkspaceOption) -> None:
    """Score a trained run again from its files alone, on every labelled split.

    Example: emi-ray evaluate -w work f2/42
    """
    from emi_ray.evaluation import evaluate_run

    target = Workspace(workspace)
    for split, scores in evaluate_run(target, run).items():
        console.print(f"{run} on {split}: mean Pearson r {scores[f'{split}_pearson']:.4f}")
    console.print(f"Wrote {target.path(f'runs/{run}/evaluation.json')}.")


@app.command()
def predict(
    run: RunArgument,
    workspace: WorkspaceOption,
    to: Annotated[Path, typer.Option(help="CSV file to write.")],
    clips: Annotated[
        list[str] | None,
        typer.Option(help="Clips, folders of clips or tables; more may follow. None: the workspace's test split."),
    ] = None,
    more: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
    form: Annotated[
        Literal["table", "submission"], typer.Option(help="submission: the challenge's header, values in [0, 1].")
    ] = "table",
    unpadded_ids: Annotated[bool, typer.Option(help="Submission: 12660 ids without leading zeros.")] = False,
    address: AddressOption = None,
) -> None:
    """Predict clips that the model has never seen.

    Example: emi-ray predict -w work f2/42 --clips new/*.mp4 --to intensities.csv
    """
    from emi_ray.prediction import predict_clips, predict_split
    from emi_ray.runtime import ray_session

    target = Workspace(workspace)
    sources = [*(clips or []), *(more or [])]
    if more and not clips:
        raise UserError(f"'{more[0]}' is not expected here: name clips with --clips.")
    if sources:
        with ray_session(address), progress_bar("Extracting features") as advance:
            predictions = predict_clips(target, run, sources, advance)
    else:
        predictions = predict_split(target, run, "test")
    _write(predictions, to, form, unpadded_ids)
    console.print(f"Wrote {len(predictions)} rows to {to}.")


@app.command()
def report(workspace: WorkspaceOption) -> None:
    """Write the HTML report of everything that the workspace holds.

    Example: emi-ray report -w work
    """
    from emi_ray.report import build_report

    target = Workspace(workspace)
    build_report(target)
    console.print(f"Report: {target.path('report/index.html')}")


def _headings(workspace: Workspace) -> list[tuple[str, str]]:
    return [(label.name, snake(label.name)) for label in labels_of(workspace.clips().schema)]
