"""Verbs about features: extract."""

from typing import Annotated

import typer

from emi_ray.cli.app import AddressOption, Overrides, WorkspaceOption, app
from emi_ray.cli.show import progress_bar, show_extraction
from emi_ray.errors import UserError, choices
from emi_ray.schema import MODALITIES, Modality
from emi_ray.workspace import Workspace


@app.command()
def extract(
    workspace: WorkspaceOption,
    overrides: Overrides = None,
    modalities: Annotated[
        str | None, typer.Option(help="Comma-separated: text,audio,vision,motion. Default: all configured.")
    ] = None,
    retry_failed: Annotated[bool, typer.Option(help="Try only what is quarantined.")] = False,
    address: AddressOption = None,
) -> None:
    """Turn clips into features. Killed or stopped, the same command does only what is missing.

    Example: emi-ray extract -w work --modalities audio,text
    """
    target = Workspace(workspace)
    config = target.config(overrides or [])
    chosen = _modalities(modalities)
    from emi_ray.extraction import extract as run_extraction
    from emi_ray.runtime import ray_session

    with ray_session(address), progress_bar("Extracting features") as advance:
        summary = run_extraction(target, config, chosen, retry_failed, advance)
    show_extraction(summary, target)


def _modalities(text: str | None) -> list[Modality] | None:
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in MODALITIES:
            raise UserError(f"--modalities '{name}': {choices(name, MODALITIES)}")
    return names  # type: ignore[return-value]
