"""Command on the corpus: init."""

from typing import Annotated

import typer

from emi_ray.cli.app import Overrides, WorkspaceOption, app
from emi_ray.cli.tables import show_findings
from emi_ray.cli.terminal import console
from emi_ray.config import CorpusKind
from emi_ray.workspace import Workspace


@app.command()
def init(
    workspace: WorkspaceOption,
    corpus: Annotated[CorpusKind, typer.Option(help="Kind of the source.")],
    source: Annotated[str, typer.Option(help="Folder, table (CSV, Parquet) or URI of the corpus.")],
    overrides: Overrides = None,
) -> None:
    """Read a corpus into a workspace, and report mistakes in it.

    Example: emi-ray init -w work --corpus table --source clips.csv media.frame_rate_hz=10
    """
    from emi_ray.corpus.setup import init_workspace

    target = Workspace(workspace)
    found = init_workspace(target, corpus, source, overrides or [])
    show_findings(found.findings)
    console.print(
        f"Wrote {target.shown('clips.parquet')}. Next: emi-ray extract -w {target.quoted}",
    )
