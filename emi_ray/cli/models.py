"""Commands for models: train, evaluate, predict, report."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from emi_ray.api import results, training
from emi_ray.cli.app import AddressOption, WorkspaceOption, app
from emi_ray.cli.progress import progress_bar, training_progress
from emi_ray.cli.tables import show_comparison, show_findings, show_scores
from emi_ray.cli.terminal import console, warn
from emi_ray.errors import UserError
from emi_ray.output import check_output
from emi_ray.schema import SPLITS, labels_of
from emi_ray.wording import plural
from emi_ray.workspace import Workspace

if TYPE_CHECKING:
    from emi_ray.prediction import Predictions
    from emi_ray.training.runs import RunResult

FEW_CLIPS = 30
"""A run with fewer validation clips than this gets a warning about the uncertainty of its scores."""

RunArgument = Annotated[str, typer.Argument(help="Trained run as RECIPE/SEED, for example f2/42.")]
RecipesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="RECIPE|SECTION.KEY=VALUE",
        help="Names or YAML files of recipes, then settings that override theirs.",
    ),
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
        int,
        typer.Option(
            help="Number of Ray Train workers that share each batch of a run; for large models, such as a "
            "fine-tuned backbone.",
            min=1,
        ),
    ] = 1,
    gpus_per_run: Annotated[
        float | None,
        typer.Option(
            "--gpus-per-run", help="Fraction of a GPU for each run (default: from its memory use).", min=0.01
        ),
    ] = None,
    any_features: Annotated[
        bool,
        typer.Option(
            "--any-features", help="Train on the workspace's features, whichever extractor the recipe names."
        ),
    ] = False,
    force: Annotated[bool, typer.Option(help="Train again, even if the run is already finished.")] = False,
    address: AddressOption = None,
) -> list[str]:
    """Train recipes: first an encoder for each modality, then the fusion of their outputs.

    Several recipes and seeds are trained in parallel, as many at once as there are GPUs or CPU cores. An encoder that
    several runs share is trained only once. A run that cannot be trained does not stop the others. To resume an
    interrupted training, repeat the same command. A recipe may also be the path of a YAML file.

    Example: emi-ray train -w work f2 --seed 1 training.epochs=30 encoders.text.hidden=256

    Example: emi-ray train -w work f1 f2 ours --seed 1 --seed 2 --seed 3
    """
    console.print("Starting Ray and reading the recipes …", style="dim")
    target = Workspace(workspace)
    names, overrides = split_arguments(recipes)
    plan = training.plan_runs(target, names, overrides, seed or (), any_features)
    for stale in plan.stale:
        warn(f"{stale}, and train again.")
    loaded = list({request.recipe.name: request.recipe for request in plan.requests}.values())
    with training_progress(loaded, len(plan.requests)) as progress:

        def show(result: "RunResult") -> None:
            progress.settle(f"{result.recipe.name}/{result.seed}")
            if result.metrics is not None:
                _show_run(result.metrics, target)

        found = training.train_runs(
            plan,
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
    """Warn about modalities of the model that no clip has, and about clips without any modality of the model."""
    had = predictions.table["modalities"].to_pylist()
    nowhere = set(predictions.streams).difference(*(modalities.split(",") for modalities in had))
    if nowhere and had:
        warn(f"no clip has {' or '.join(sorted(nowhere))}, which the model also reads.")
    if unknown := predictions.unknown:
        named = ", ".join(unknown[:8]) + (", …" if len(unknown) > 8 else "")
        warn(
            f"{len(unknown)} of {plural(len(had), 'clip', 'have')} no input that the model reads; their intensities "
            f"are {shown}: {named}."
        )
        for clip_id, reasons in predictions.reasons(unknown[:3]).items():
            warn(f"{clip_id}: {'; '.join(reasons)}.")


def _warn_of_limited(predictions: "Predictions") -> None:
    """Warn about values that were limited to the ranges of their labels."""
    if limited := predictions.limited:
        num_clips = plural(predictions.table.num_rows, "clip")
        told = ", ".join(f"{name} {count}" for name, count in limited.items())
        warn(
            f"Values outside the range of their label were set to its limit ({told}, of {num_clips}). Such clips "
            "cannot be ranked among each other, and scores use the values before that."
        )


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split command-line arguments into names of recipes and settings (``section.key=value``).

    Raises:
        UserError: the arguments name no recipe.
    """
    names = [argument for argument in arguments if "=" not in argument]
    if not names:
        raise UserError("Name at least one recipe; 'emi-ray recipes' lists them.")
    return names, [argument for argument in arguments if "=" in argument]


def _show_choice(metrics: Mapping[str, Any]) -> None:
    """Print which clips selected the best epoch, and the score if the reported clips had selected it."""
    shown, best = metrics["val_pearson"], metrics.get("val_pearson_chosen_on_val")
    if best is None or shown is None or metrics.get("stopped_by") == "folds":
        return
    if metrics["stopped_by"] == "inner":
        text = (
            f"The best epoch was selected on {metrics['num_inner']} held-out train clips: validation r {shown:.3f}. "
            f"Selected on the validation clips themselves, it would be {best:.3f}."
        )
    else:
        text = (
            "The best epoch was selected on the validation clips that the score is reported on, so the score is "
            "optimistic. training.stop_on=inner selects it on held-out train clips instead."
        )
    console.print(text)


def _show_run(metrics: Mapping[str, Any], workspace: Workspace) -> None:
    show_scores(metrics, labels_of(workspace.clips().schema))
    _show_choice(metrics)
    if (num_val := metrics["num_val"]) < FEW_CLIPS:
        # Of a correlation near 0: 1 / sqrt(n - 1).
        error = f", their standard error is about {(num_val - 1) ** -0.5:.2f}" if num_val > 1 else ""
        warn(f"correlations over only {num_val} validation clips are uncertain{error}.")
    if constant := metrics.get("constant_labels"):
        warn(
            f"{', '.join(constant)} is constant over the validation clips, so its correlation is undefined; "
            f"the mean is over the other {metrics['num_labels_scored']} labels."
        )
    run = f"{metrics['recipe']}/{metrics['seed']}"
    if metrics.get("gpus") and metrics.get("device") == "cpu":
        warn(
            f"trained on the CPU, because torch cannot use the GPU that Ray assigned on node {metrics['node']}."
        )
    if metrics["already_finished"]:
        console.print(f"Run {run} is already finished with the same settings; --force trains it again.")
    else:
        console.print(f"Wrote run {run} to {workspace.shown('runs')}.")


@app.command()
def evaluate(run: RunArgument, workspace: WorkspaceOption) -> None:
    """Score a trained run on every labelled split, using only its files, and measure its robustness.

    Robustness is measured with some modalities hidden, on clips that lack a modality, and by clip length. The HTML
    report shows these scores.

    Example: emi-ray evaluate -w work f2/42
    """
    from emi_ray.ensembles import is_ensemble
    from emi_ray.robustness import measure_robustness

    target = Workspace(workspace)
    result = results.evaluate(target, run)
    for split in (split for split in SPLITS if split in result):
        score, num_clips = result[split][f"{split}_pearson"], result[split][f"num_{split}"]
        shown = "not defined" if score is None else f"{score:.4f}"
        console.print(f"{run} on {split}: mean Pearson r {shown} over {plural(num_clips, 'clip')}")
    if not is_ensemble(target, run):
        measure_robustness(target, run)


@app.command()
def predict(
    run: RunArgument,
    workspace: WorkspaceOption,
    to: Annotated[str, typer.Option(help="CSV file to write: a path or URI.")],
    clips: Annotated[
        list[str] | None,
        typer.Option(help="Media files, folders or one table (default: the test split of the workspace)."),
    ] = None,
    more: Annotated[list[str] | None, typer.Argument(metavar="CLIP", hidden=True)] = None,
    form: Annotated[
        Literal["table", "submission"],
        typer.Option(help="Layout of the CSV file; submission is the challenge's format."),
    ] = "table",
    id_width: Annotated[
        int | None,
        typer.Option(
            help="With --form submission: pad clip ids with zeros to this width (default: as in the test list)."
        ),
    ] = None,
    address: AddressOption = None,
) -> None:
    """Predict emotion intensities of new clips: one row per clip, each value limited to the range of its label.

    Media files have no transcripts. If the model reads text, pass a table (CSV or Parquet) with the columns clip_id,
    video and transcript to --clips.

    Example: emi-ray predict -w work f2/42 --clips new/*.mp4 --to intensities.csv
    """
    target = Workspace(workspace)
    if more and not clips:
        raise UserError(f"Unexpected argument '{more[0]}': give clips with --clips.")
    # Before the extraction, which may take hours.
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
    console.print(f"Wrote {plural(predictions.table.num_rows, 'row')} to {to}.")
    _warn_of_unknown(
        predictions, "blank" if form == "table" else "what the model predicts when every input is missing"
    )
    _warn_of_limited(predictions)


@app.command()
def report(workspace: WorkspaceOption) -> None:
    """Write an HTML report on the workspace: corpus, features, runs, comparisons and studies.

    Example: emi-ray report -w work
    """
    console.print(f"Report: {results.report(workspace)}")
