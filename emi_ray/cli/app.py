"""The application: what verbs share, and how errors become exit codes."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console

from emi_ray.errors import EmiRayError, UserError

console = Console()
errors = Console(stderr=True)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="From raw talking-face clips to emotion intensities, scored and explained. Start with: emi-ray demo",
)

WorkspaceOption = Annotated[
    str, typer.Option("--workspace", "-w", help="Folder or URI (s3://…) that holds all of one project.")
]
AddressOption = Annotated[
    str | None,
    typer.Option("--address", envvar="RAY_ADDRESS", help="Ray cluster to use; none: this machine alone."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Settings to override for this command."),
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a verb. Exit codes: 0 ok, 1 the work failed, 2 the user's mistake."""
    try:
        app(args=arguments)
    except UserError as error:
        errors.print(f"Error: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(2)
    except EmiRayError as error:
        errors.print(f"Failed: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(1)
