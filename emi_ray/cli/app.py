"""The application: what verbs share, and how errors become exit codes."""

import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from emi_ray.errors import EmiRayError, UserError
from emi_ray.storage import explain, without_credentials

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
        _end(f"Error: {error}", 2)
    except EmiRayError as error:
        _end(f"Failed: {error}", 1)
    except OSError as error:  # of disks and object stores; what they were asked for was checked before
        _end(f"Failed: {explain(error)}", 1)


def _end(message: str, code: int) -> NoReturn:
    errors.print(without_credentials(message), style="red", markup=False, soft_wrap=True, highlight=False)
    sys.exit(code)
