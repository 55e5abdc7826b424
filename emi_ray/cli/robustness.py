"""The command robustness: score a run on noisy audio and on transcripts with errors."""

from typing import Annotated

import typer

from emi_ray.cli.app import AddressOption, WorkspaceOption, app
from emi_ray.cli.models import RunArgument
from emi_ray.cli.progress import progress_bar
from emi_ray.cli.terminal import console
from emi_ray.wording import plural
from emi_ray.workspace import Workspace


@app.command()
def robustness(
    run: RunArgument,
    workspace: WorkspaceOption,
    snr: Annotated[
        list[float] | None,
        typer.Option(help="Signal-to-noise ratio in dB; repeat for several (default: 20, 10, 5 and 0)."),
    ] = None,
    word_errors: Annotated[
        list[float] | None,
        typer.Option(
            "--word-errors",
            min=0,
            max=1,
            help="Word error rate, 0 to 1; repeat for several (default: 0.1, 0.2, 0.4).",
        ),
    ] = None,
    clips: Annotated[int, typer.Option(help="Maximum number of validation clips.", min=10)] = 200,
    address: AddressOption = None,
) -> None:
    """Score a run on validation clips with added noise and with errors in their transcripts.

    The perturbed audio and text pass through the extractors that the run was trained with. The report shows the
    scores beside those of `emi-ray evaluate` on harder clips.

    Example: emi-ray robustness -w work f2/42 --snr 10 --snr 0
    """
    from emi_ray.perturbation import SNR_DB, WORD_ERROR_RATES, measure_perturbed
    from emi_ray.runtime import ray_session

    target = Workspace(workspace)
    target.require_writable()
    with ray_session(address, streaming=True), progress_bar("Conditions") as advance:
        found = measure_perturbed(target, run, snr or SNR_DB, word_errors or WORD_ERROR_RATES, clips, advance)
    for part, what in (("noise", "audio"), ("word_errors", "text")):
        for entry in found[part]:
            score = "not defined" if entry["val_pearson"] is None else f"{entry['val_pearson']:.4f}"
            console.print(
                f"{what}, {entry['name']}: mean validation Pearson {score} over {plural(entry['num_clips'], 'clip')}",
            )
