"""Verbs about models: train, evaluate, predict, report."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from emi_ray.api import results, training
from emi_ray.cli.app import AddressOption, WorkspaceOption, app, console
from emi_ray.cli.show import progress_bar, show_comparison, show_findings, show_scores, training_progress
from emi_ray.errors import UserError
from emi_ray.output import check_output
from emi_ray.schema import SPLITS, labels_of
from emi_ray.workspace import Workspace

if TYPE_CHECKING:
    from emi_ray.prediction import Predictions
    from emi_ray.training.runs import RunResult

FEW_CLIPS = 30
"""Fewer validation clips are remarked on."""

RunArgument = Annotated[str, typer.Argument(help="RECIPE/SEED, as under runs/ of the workspace: f2/42.")]
RecipesArgument = Annotated[
    list[str], typer.Argument(metavar="RECIPE... [SECTION.KEY=VALUE]...", help="Recipes, then settings.")
]
SeedsOption = Annotated[
    list[int] | None,
    typer.Option(
        "--seed", help="Random seed; repeat the option to train several seeds (default: training.seed)."
    ),
]


@app.command()
def train(
    recipes: RecipesArgument,
    workspace: WorkspaceOption,
    seed: SeedsOption = None,
    workers: Annotated[
        int, typer.Option(help="Workers that share each batch of one large run, as with a backbone.", min=1)
    ] = 1,
    gpus_per_run: Annotated[
        float | None,
        typer.Option("--gpus-per-run", help="Share of a GPU for each run (default: by memory).", min=0.01),
    ] = None,
    any_features: Annotated[
        bool, typer.Option("--any-features", help="On whatever features there are, not those it names.")
    ] = False,
    force: Annotated[bool, typer.Option(help="Train again what is already trained.")] = False,
    address: AddressOption = None,
) -> list[str]:
    """Train recipes: one encoder for each modality, then their fusion.

    Several recipes and seeds are trained side by side, as many at once as there are GPUs or CPU cores. Encoders that
    several of them share are trained once. A run that cannot be trained does not stop the others. The same command
    resumes what was interrupted. A recipe may be the path of a YAML file.

    Example: emi-ray train -w work f2 --seed 1 training.epochs=30 encoders.text.hidden=256

    Example: emi-ray train -w work f1 f2 ours --seed 1 --seed 2 --seed 3
    """
    console.print("Starting Ray and reading the recipes …", style="dim")
    target = Workspace(workspace)
    names, overrides = split_arguments(recipes)
    requests = training.plan_runs(target, names, overrides, seed or (), any_features)
    for stale in training.stale_features(target, requests):
        _warn(f"{stale}, and train again.")
    loaded = list({request.recipe.name: request.recipe for request in requests}.values())
    with training_progress(loaded, len(requests)) as progress:

        def show(result: "RunResult") -> None:
            progress.settle(f"{result.recipe.name}/{result.seed}")
            if result.metrics is not None:
                _show_run(result.metrics, target)

        found = training.train_runs(
            target,
            requests,
            num_workers=workers,
            force=force,
            gpus_per_run=gpus_per_run,
            address=address,
            on_progress=progress.advance,
            on_plan=progress.plan,
            on_result=show,
        )
    done = [(result.recipe, result.metrics) for result in found if result.metrics is not None]
    if len(done) > 1:
        show_comparison(done)
    training.raise_problems(found)
    return [f"{recipe.name}/{metrics['seed']}" for recipe, metrics in done]


def _warn_of_unknown(predictions: "Predictions", shown: str) -> None:
    """Warn of modalities that the model reads and no clip has, and of clips that have none of them."""
    had = predictions.table["modalities"].to_pylist()
    nowhere = set(predictions.streams).difference(*(modalities.split(",") for modalities in had))
    if nowhere and had:
        _warn(f"no clip has {' or '.join(sorted(nowhere))}, which the model reads too.")
    if unknown := predictions.unknown:
        named = ", ".join(unknown[:8]) + (", …" if len(unknown) > 8 else "")
        _warn(
            f"{len(unknown)} of {len(had)} clips have nothing that the model reads; their intensities are {shown}: "
            f"{named}."
        )


def _warn(text: str) -> None:
    console.print(f"Warning: {text}", style="yellow", markup=False, soft_wrap=True)


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names of recipes, and settings.

    Raises:
        UserError: no recipe is named.
    """
    names = [argument for argument in arguments if "=" not in argument]
    if not names:
        raise UserError("No recipe is named: emi-ray recipes lists them.")
    return names, [argument for argument in arguments if "=" in argument]


def _show_choice(metrics: Mapping[str, Any]) -> None:
    """Say which clips chose the epoch, and what the reported clips would have chosen."""
    shown, best = metrics["val_pearson"], metrics.get("val_pearson_chosen_on_val")
    if best is None or shown is None or metrics.get("stopped_by") == "folds":
        return
    if metrics["stopped_by"] == "inner":
        text = (
            f"The epoch was chosen by {metrics['num_inner']} inner clips of train: val r {shown:.3f}. Chosen by the "
            f"reported clips themselves: {best:.3f}."
        )
    else:
        text = (
            "The epoch was chosen by the clips that are reported, which flatters the score: an inner part of train "
            "chooses with training.stop_on=inner."
        )
    console.print(text, markup=False, soft_wrap=True)


def _show_run(metrics: Mapping[str, Any], workspace: Workspace) -> None:
    show_scores(metrics, labels_of(workspace.clips().schema))
    _show_choice(metrics)
    if (num_val := metrics["num_val"]) < FEW_CLIPS:
        error = f", their standard error is about {(num_val - 1) ** -0.5:.2f}" if num_val > 1 else ""
        _warn(f"correlations over {num_val} validation clips say little{error}.")
    if constant := metrics.get("constant_labels"):
        _warn(
            f"{', '.join(constant)} never varies among the validation clips, so no correlation exists; "
            f"the mean is over {metrics['num_labels_scored']} labels."
        )
    run = f"{metrics['recipe']}/{metrics['seed']}"
    if metrics.get("gpus") and metrics.get("device") == "cpu":
        _warn(f"trained on the CPU: torch cannot use the GPU that Ray assigned on node {metrics['node']}.")
    if metrics["already_finished"]:
        console.print(f"Run {run} was finished before with the same settings; --force trains it again.")
    else:
        console.print(f"Wrote run {run} to {workspace.shown('runs')}.")


@app.command()
def evaluate(run: RunArgument, workspace: WorkspaceOption) -> None:
    """Score a trained run again from its files alone, on every labelled split, and on harder clips.

    The report shows how it fares with fewer modalities, on clips that lack one, and by length.

    Example: emi-ray evaluate -w work f2/42
    """
    from emi_ray.ensembles import is_ensemble
    from emi_ray.robustness import measure_robustness

    target = Workspace(workspace)
    result = results.evaluate(target, run)
    for split in (split for split in SPLITS if split in result):
        score, num_clips = result[split][f"{split}_pearson"], result[split][f"num_{split}"]
        shown = "not defined" if score is None else f"{score:.4f}"
        console.print(f"{run} on {split}: mean Pearson r {shown} over {num_clips} clips")
    if not is_ensemble(target, run):
        measure_robustness(target, run)


@app.command()
def predict(
    run: RunArgument,
    workspace: WorkspaceOption,
    to: Annotated[str, typer.Option(help="CSV file to write: a path or URI.")],
    clips: Annotated[
        list[str] | None,
        typer.Option(help="Clips, folders or one table; more may follow. None: the workspace's test split."),
    ] = None,
    more: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
    form: Annotated[
        Literal["table", "submission"], typer.Option(help="submission: as the challenge wants it.")
    ] = "table",
    id_width: Annotated[
        int | None, typer.Option(help="Submission: pad ids with zeros; else as the test list spells them.")
    ] = None,
    address: AddressOption = None,
) -> None:
    """Predict clips that the model has never seen: one row a clip, clipped to the range of each label.

    Media files bring no transcripts. Where the model reads text, give a table (CSV or Parquet) with clip_id, video
    and transcript as --clips.

    Example: emi-ray predict -w work f2/42 --clips new/*.mp4 --to intensities.csv
    """
    target = Workspace(workspace)
    if more and not clips:
        raise UserError(f"'{more[0]}' is not expected here: name clips with --clips.")
    check_output(to)
    with progress_bar("Extracting features") as advance:
        predictions = results.predict(
            target,
            run,
            [*(clips or []), *(more or [])],
            address=address,
            on_progress=advance,
            on_findings=show_findings,
        )
    if form == "submission":
        predictions.write_submission(to, id_width)
    else:
        predictions.write_csv(to)
    console.print(f"Wrote {predictions.table.num_rows} rows to {to}.", markup=False, soft_wrap=True)
    _warn_of_unknown(
        predictions, "blank" if form == "table" else "what the model predicts when every input is missing"
    )


@app.command()
def report(workspace: WorkspaceOption) -> None:
    """Write the HTML report of everything that the workspace holds.

    Example: emi-ray report -w work
    """
    console.print(f"Report: {results.report(workspace)}")
