"""The command doctor: find problems before a run."""

from contextlib import nullcontext

from emi_ray.cli.app import AddressOption, Overrides, WorkspaceOption, app
from emi_ray.cli.terminal import console
from emi_ray.errors import EmiRayError
from emi_ray.workspace import Workspace

_STYLES = {"ok": "green", "warning": "yellow", "problem": "red"}


@app.command()
def doctor(workspace: WorkspaceOption, overrides: Overrides = None, address: AddressOption = None) -> None:
    """Check settings, corpus, extractors and machine for problems, and print remedies. With --address, check every
    node.

    Example: emi-ray doctor -w work extractors.vision.name=dinov2-face
    """
    from emi_ray.doctor import examine
    from emi_ray.runtime import ray_session

    num_problems = 0
    with ray_session(address) if address else nullcontext():
        for check in examine(Workspace(workspace), overrides or [], cluster=bool(address)):
            num_problems += check.status == "problem"
            text = f"{check.status:8} {check.name}: {check.message}"
            console.print(text, style=_STYLES[check.status], highlight=False)
            if check.remedy:
                console.print(f"         {check.remedy}", highlight=False)
    if num_problems:
        raise EmiRayError(
            f"{num_problems} of these would make a run fail."
            if num_problems > 1
            else "one of these would make a run fail."
        )
