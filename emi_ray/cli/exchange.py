"""Commands that exchange features with other programs: import-features, export-features."""

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from emi_ray.cli.app import Overrides, WorkspaceOption, app
from emi_ray.cli.progress import progress_bar
from emi_ray.cli.tables import compact_table, show_findings
from emi_ray.cli.terminal import console
from emi_ray.schema import Modality
from emi_ray.wording import plural
from emi_ray.workspace import Workspace

if TYPE_CHECKING:
    from emi_ray.exchange.storing import ImportedPart

_NUM_REASONS = 8
"""Number of reasons that are shown for each modality; all are in the workspace."""

ModalityOption = Annotated[
    Modality | None, typer.Option(help="Only this one; required for 'folder' and 'table'.")
]


@app.command()
def import_features(
    workspace: WorkspaceOption,
    layout: Annotated[
        Literal["mimicmetrics", "organisers", "folder", "table"],
        typer.Option(help="Layout of the source."),
    ],
    source: Annotated[str, typer.Option(help="Folder, file (table) or URI of the features.")],
    modality: ModalityOption = None,
    name: Annotated[
        str | None, typer.Option(help="Name for use in recipes (default: imported-LAYOUT-MODALITY).")
    ] = None,
    splits: Annotated[
        str | None,
        typer.Option(
            help="Folder of split CSVs, or table of clip_id, split and labels (default: the source)."
        ),
    ] = None,
    rate_hz: Annotated[float | None, typer.Option(help="Steps per second, for timestamps.", min=1e-3)] = None,
    extend: Annotated[
        bool, typer.Option("--extend", help="Update earlier imported features with new or changed clips.")
    ] = False,
    overrides: Overrides = None,
) -> None:
    """Import features that were computed elsewhere. Creates the workspace if it does not exist.

    Pickles are read by a reader that admits only numpy arrays and torch tensors, and executes nothing.

    Example: emi-ray import-features -w work --layout organisers --source /data/hume
    """
    from emi_ray.exchange import import_features as run_import

    target = Workspace(workspace)
    with progress_bar("Importing features") as advance:
        done = run_import(
            target,
            layout,
            source,
            modality,
            name=name,
            splits=splits,
            rate_hz=rate_hz,
            extend=extend,
            overrides=overrides or [],
            on_progress=advance,
        )
    show_findings(done.findings)
    _show_imported(done.parts, workspace)


@app.command()
def export_features(
    workspace: WorkspaceOption,
    layout: Annotated[
        Literal["mimicmetrics", "folder", "transcripts", "failures"],
        typer.Option(
            help="folder: <id>.npy; transcripts: transcripts.csv, including those of Whisper; failures: "
            "failures.csv, the clips without features and the reasons."
        ),
    ],
    to: Annotated[str, typer.Option(help="Folder or URI to write into.")],
    modality: ModalityOption = None,
    features: Annotated[
        str | None, typer.Option(help="Fingerprint or extractor name, if there are several.")
    ] = None,
) -> None:
    """Write features as float32 arrays, one file per clip, or tables of the transcripts or failures.

    Example: emi-ray export-features -w work --layout folder --modality audio --to audio_features
    """
    from emi_ray.exchange import export_failures, export_transcripts
    from emi_ray.exchange import export_features as run_export

    if layout in ("transcripts", "failures"):
        write = export_transcripts if layout == "transcripts" else export_failures
        path, count = write(Workspace(workspace), to)
        console.print(f"{count} {layout} in {path}")
        return
    with progress_bar("Exporting features") as advance:
        done = run_export(Workspace(workspace), layout, to, modality, features=features, on_progress=advance)
    for part in done:
        # The layout mimicmetrics has a file for each clip, also for those without features.
        zeros = f", {part.num_zeros} of clips without it as zeros" if part.num_zeros else ""
        console.print(
            f"{part.modality} ({part.fingerprint}): {plural(part.num_clips, 'clip')}{zeros} in {part.place}"
        )


def _show_imported(parts: "Sequence[ImportedPart]", workspace: str) -> None:
    """Print a table with a row per modality, then the refused clips with reasons."""
    table = compact_table("Imported")
    for heading in ("modality", "fingerprint"):
        table.add_column(heading, no_wrap=True)
    for heading in ("size", "imported", "replaced", "before", "missing", "refused", "kept as", "rounding"):
        table.add_column(heading, justify="right")
    for part in parts:
        counts = (part.feature_dim, part.num_imported, part.num_replaced, part.num_before, part.num_missing)
        rounding = f"{part.rounding:.1e}" if part.rounding else "none"
        refused = str(len(part.reasons))
        table.add_row(part.modality, part.fingerprint, *map(str, counts), refused, part.dtype, rounding)
    console.print(table)
    for part in parts:
        for clip_id, reason in list(part.reasons.items())[:_NUM_REASONS]:
            console.print(f"  {part.modality} of {clip_id}: {reason}", style="red")
        if len(part.reasons) > _NUM_REASONS:
            console.print(f"  … and {len(part.reasons) - _NUM_REASONS} more: see failures/ of the workspace.")
        if part.num_unknown:
            console.print(
                f"  {part.modality}: {plural(part.num_unknown, 'file', 'belong')} to clips that are not in the "
                "corpus."
            )
    names = ", ".join(f"encoders.{part.modality}.features={part.name}" for part in parts)
    console.print(
        f"Next: emi-ray train -w {shlex.quote(workspace)} f2. If the workspace has "
        f"other features too, select these: {names}",
    )
