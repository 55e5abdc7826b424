"""Verbs about models: train, evaluate, predict, report."""

from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from emi_ray.cli.app import AddressOption, WorkspaceOption, app, console
from emi_ray.cli.show import progress_bar, show_comparison, show_findings, show_scores, training_progress
from emi_ray.errors import EmiRayError, UserError
from emi_ray.output import check_output, write_output
from emi_ray.schema import SPLITS, labels_of
from emi_ray.workspace import Workspace

if TYPE_CHECKING:
    from pyarrow import Table


FEW_CLIPS = 30
"""Fewer validation clips are remarked on."""

RECIPE_SECTIONS = ("training", "encoders", "fusion", "objective")
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
    from emi_ray.recipe import load_recipe
    from emi_ray.runtime import ray_session
    from emi_ray.training.inputs import require_labels

    target = Workspace(workspace)
    config = target.config()
    defaults = {name: getattr(config, name) for name in RECIPE_SECTIONS}
    names, overrides = split_arguments(recipes)
    loaded = [load_recipe(name, overrides, defaults, any_features) for name in names]
    require_labels(target)
    with ray_session(address):
        from emi_ray.training.runs import RunRequest, RunResult, train_runs

        requests = [RunRequest(recipe, one) for recipe in loaded for one in seed or [recipe.training.seed]]
        with training_progress(loaded, len(requests)) as progress:

            def show(result: RunResult) -> None:
                progress.settle(f"{result.recipe.name}/{result.seed}")
                if result.metrics is not None:
                    _show_run(result.metrics, target)

            results = train_runs(
                target,
                requests,
                config,
                num_workers=workers,
                force=force,
                gpus_per_run=gpus_per_run,
                on_progress=progress.advance,
                on_plan=progress.plan,
                on_result=show,
            )
    problems = [result.problem for result in results if result.problem is not None]
    done = [(result.recipe, result.metrics) for result in results if result.metrics is not None]
    if len(done) > 1:
        show_comparison(done)
    if problems:
        raise _together(problems, len(done))
    return [f"{recipe.name}/{metrics['seed']}" for recipe, metrics in done]


def _warn_of_unknown(predictions: "Table", reads: Iterable[str], shown: str) -> None:
    """Say what no clip has of the modalities that the model reads, and which clips it knew nothing of."""
    had = dict(zip(predictions["clip_id"].to_pylist(), predictions["modalities"].to_pylist(), strict=True))
    nowhere = set(reads).difference(*(modalities.split(",") for modalities in had.values()))
    if nowhere and predictions.num_rows:
        _warn(f"no clip has {' or '.join(sorted(nowhere))}, which the model reads too.")
    unknown = [clip_id for clip_id, modalities in had.items() if not modalities]
    if unknown:
        named = ", ".join(unknown[:8]) + (", …" if len(unknown) > 8 else "")
        _warn(
            f"{len(unknown)} of {predictions.num_rows} clips have nothing that the model reads; their "
            f"intensities are {shown}: {named}."
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


def _together(problems: Sequence[EmiRayError], num_done: int) -> EmiRayError:
    """One error for all: the user's mistake if any is."""
    if len(problems) == 1 and not num_done:
        return problems[0]
    kind = UserError if any(isinstance(problem, UserError) for problem in problems) else EmiRayError
    reasons = "".join(f"\n  {problem}" for problem in problems)
    return kind(f"{num_done} runs are done; {len(problems)} could not be made:{reasons}")


@app.command()
def evaluate(run: RunArgument, workspace: WorkspaceOption) -> None:
    """Score a trained run again from its files alone, on every labelled split, and on harder clips.

    The report shows how it fares with fewer modalities, on clips that lack one, and by length.

    Example: emi-ray evaluate -w work f2/42
    """
    from emi_ray.ensembles import evaluate_run, is_ensemble
    from emi_ray.robustness import measure_robustness

    target = Workspace(workspace)
    result = evaluate_run(target, run)
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
    from pyarrow.csv import write_csv

    from emi_ray.ensembles import labels_and_streams
    from emi_ray.evaluation import as_intensities, write_submission
    from emi_ray.prediction import as_test_list_spells, predict_clips, predict_split, read_new_clips
    from emi_ray.runtime import ray_session
    from emi_ray.training.checkpoint import find_run

    target = Workspace(workspace)
    sources = [*(clips or []), *(more or [])]
    if more and not clips:
        raise UserError(f"'{more[0]}' is not expected here: name clips with --clips.")
    find_run(target, run)
    check_output(to)
    if sources:
        found = read_new_clips(target, run, sources)
        show_findings(found.warnings)
        with ray_session(address, streaming=True), progress_bar("Extracting features") as advance:
            predictions = predict_clips(target, found, advance)
    else:
        predictions = predict_split(target, run, "test")
    labels, streams = labels_and_streams(target, run)
    if form == "submission":
        if id_width is None:
            predictions = as_test_list_spells(target, predictions)
        write_submission(predictions, to, labels, id_width)
    else:
        sheet = BytesIO()
        write_csv(as_intensities(predictions, labels), sheet)
        write_output(to, sheet.getvalue())
    console.print(f"Wrote {predictions.num_rows} rows to {to}.", markup=False, soft_wrap=True)
    shown = "blank" if form == "table" else "what the model says knowing nothing"
    _warn_of_unknown(predictions, streams, shown)


@app.command()
def report(workspace: WorkspaceOption) -> None:
    """Write the HTML report of everything that the workspace holds.

    Example: emi-ray report -w work
    """
    from emi_ray.reporting import build_report

    target = Workspace(workspace)
    target.config()  # a workspace must be there
    build_report(target)
    console.print(f"Report: {target.shown('report/index.html')}")
