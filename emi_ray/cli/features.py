"""Command on features: extract."""

import re
from collections.abc import Sequence
from typing import Annotated

import typer

from emi_ray.api import data
from emi_ray.cli.app import AddressOption, Overrides, WorkspaceOption, app
from emi_ray.cli.progress import progress_bar
from emi_ray.cli.tables import show_extraction, show_plan
from emi_ray.cli.terminal import console
from emi_ray.schema import Modality, require_modality
from emi_ray.workspace import Workspace


@app.command()
def extract(
    workspace: WorkspaceOption,
    overrides: Overrides = None,
    modalities: Annotated[
        list[str] | None,
        typer.Option(
            help="Comma-separated: text,audio,vision,motion; may be repeated. Default: all configured."
        ),
    ] = None,
    retry_failed: Annotated[bool, typer.Option(help="Process only quarantined clips, again.")] = False,
    plan: Annotated[
        bool, typer.Option(help="Measure each stage on a few clips, print the plan, and stop.")
    ] = False,
    address: AddressOption = None,
) -> None:
    """Extract features from clips. After an interruption, repeat the command to do only what is missing.

    Example: emi-ray extract -w work --modalities audio,text
    """
    target = Workspace(workspace)
    chosen = _modalities(modalities)
    if plan:
        with console.status("Measuring each stage on a few clips…"):
            planned = data.plan_extraction(target, chosen, settings=overrides or (), address=address)
        show_plan(*planned)
        return
    with progress_bar("Extracting features") as advance:
        summary = data.extract(
            target,
            chosen,
            settings=overrides or (),
            retry_failed=retry_failed,
            address=address,
            on_progress=advance,
        )
    show_extraction(summary, target)
    for modality, name in _named_extractors(overrides or ()):
        console.print(
            f"By default recipes read the {modality} features of the extractor that emi_ray.yaml names. To train on "
            f"these: emi-ray train -w {target.quoted} RECIPE encoders.{modality}.features={name}"
        )


def _named_extractors(overrides: Sequence[str]) -> list[tuple[str, str]]:
    """Return the modality and the name of each extractor that was named for this command alone."""
    found = (re.fullmatch(r"extractors\.(\w+)\.name=(.+)", override) for override in overrides)
    return [(match[1], match[2]) for match in found if match]


def _modalities(given: list[str] | None) -> list[Modality] | None:
    """Return the modalities in all given options, each once."""
    if not given:
        return None
    names = list(dict.fromkeys(name.strip() for text in given for name in text.split(",")))
    for name in names:
        require_modality(name, "--modalities")
    return names  # type: ignore[return-value]
