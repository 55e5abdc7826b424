"""Commands that run all steps: demo, run."""

from pathlib import Path
from typing import Annotated

import typer

from emi_ray.cli.app import AddressOption, WorkspaceOption, app
from emi_ray.cli.corpus import init
from emi_ray.cli.features import extract
from emi_ray.cli.models import RecipesArgument, SeedsOption, evaluate, report, split_arguments, train
from emi_ray.cli.progress import progress_bar
from emi_ray.config import CorpusKind
from emi_ray.workspace import Workspace

DEMO_CLIPS = 480


@app.command()
def demo(
    workspace: WorkspaceOption = "demo",
    clips: Annotated[int, typer.Option(help="Number of clips to render.", min=24)] = DEMO_CLIPS,
    address: AddressOption = None,
) -> None:
    """Render a small corpus of talking faces, and run all steps on it, up to the report.

    Example: emi-ray demo -w demo
    """
    from emi_ray.corpus.demo import render_demo

    folder = Path(workspace) / "corpus"
    with progress_bar("Rendering clips") as advance:
        render_demo(folder, clips, on_clip=lambda done: advance(done, clips))
    run(["f2"], workspace, "demo", str(folder), address=address)


@app.command()
def run(
    recipes: RecipesArgument,
    workspace: WorkspaceOption,
    corpus: Annotated[CorpusKind, typer.Option(help="Kind of the source.")],
    source: Annotated[str, typer.Option(help="Folder, table or URI of the corpus.")],
    seed: SeedsOption = None,
    workers: Annotated[int, typer.Option(help="Worker processes for training one run.", min=1)] = 1,
    address: AddressOption = None,
) -> None:
    """Run all steps: init, extract, train and evaluate each recipe, report.

    Example: emi-ray run f1 f2 -w work --corpus vidmimic2 --source /data/hume
    """
    from emi_ray.extraction import run as extraction
    from emi_ray.runtime import ray_session
    from emi_ray.training.data.input_hashes import require_labels

    names, settings = split_arguments(recipes)
    init(workspace, corpus, source, settings)
    target = Workspace(workspace)
    # Fails before the extraction if the corpus cannot be trained on.
    require_labels(target)
    extraction.check(target, target.config())
    # One session for all steps; each of them uses the session that is running.
    with ray_session(address, streaming=True):
        extract(workspace)
        for run_name in train(names, workspace, seed=seed, workers=workers):
            evaluate(run_name, workspace)
    report(workspace)
