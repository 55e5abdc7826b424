"""The command extractors: list the available extractors."""

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import typer
from rich.table import Table

from emi_ray.cli.app import app
from emi_ray.cli.tables import compact_table
from emi_ray.cli.terminal import console
from emi_ray.schema import NEEDS

_NUM_THREADS = 4
OPENFACE_BINARY = "FeatureExtraction"
_REACH = {
    "folder": "yes",
    "cache": "yes",
    "package": "in a package",
    "hub": "on the hub",
    "no": "no",
}


@app.command()
def extractors(
    plain: Annotated[bool, typer.Option("--plain", help="Print only names, one per line.")] = False,
) -> None:
    """List the extractors: feature sizes, licences, and whether their default weights are available now.

    Set one in emi_ray.yaml, or for one command: emi-ray extract -w work extractors.text.name=gte-base

    Your own extractor is a subclass of emi_ray.extractors.Extractor, named as module:Class
    (extractors.vision.name=faces.gaze:Gaze). See docs/how-to/own_extractor.md.

    Example: emi-ray extractors
    """
    from emi_ray.extractors import EXTRACTORS
    from emi_ray.extractors.custom import load_own, registered
    from emi_ray.extractors.pretrained.whisper import Whisper

    if plain:
        for name in EXTRACTORS:
            typer.echo(name)
        return
    entered = [load_own(name, "entry point") for name in registered()]
    kinds: Sequence[Any] = [*EXTRACTORS.values(), *entered, Whisper]
    # Each look may wait for the hub for seconds, so they run side by side.
    with console.status("Looking for weights"), ThreadPoolExecutor(_NUM_THREADS) as threads:
        reaches = list(threads.map(reach, kinds))
    table = _table("Extractors", "name", "modality", "needs", "size", "licence", "there now")
    sources = _table("Default weights", "name", "Hugging Face id")
    for kind, there in zip(kinds, reaches, strict=True):
        needs = ", ".join(sorted(kind.NEEDS, key=NEEDS.index))
        size = str(getattr(kind, "DIM", None) or "–")
        table.add_row(kind.NAME, getattr(kind, "MODALITY", "transcript"), needs, size, kind.LICENCE, there)
        if weights := default_weights(kind):
            sources.add_row(kind.NAME, weights)
    console.print(table, sources)


def _table(title: str, *headings: str) -> Table:
    table = compact_table(title)
    for heading in headings:
        table.add_column(
            heading,
            justify="right" if heading == "size" else "left",
            no_wrap=heading == "name",
            overflow="fold",
        )
    return table


def default_weights(kind: Any) -> str | None:
    """Return the Hugging Face id of an extractor's default weights; None if it has none."""
    field = kind.Settings.model_fields.get("weights")
    return None if field is None or field.is_required() else str(field.default)


def reach(kind: Any) -> str:
    """Return whether an extractor with default settings could run here now."""
    if "weights" not in kind.Settings.model_fields:
        if "openface_csv" in kind.NEEDS:
            found = shutil.which(OPENFACE_BINARY)
            return "yes" if found else "CSVs only"
        return "with an extra" if kind.check(kind.Settings()) else "yes"
    if (weights := default_weights(kind)) is None:
        return "give them"
    from emi_ray.pretrained_weights.checkpoint import Checkpoint

    return _REACH[Checkpoint(weights).reachable().place]
