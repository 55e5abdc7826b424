"""The command-line application: options that commands share, and exit codes for errors."""

import atexit
import inspect
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NoReturn

import typer

from emi_ray import __version__
from emi_ray.cli.log import begin_log, end_log
from emi_ray.cli.terminal import Verbosity, console, errors, flags_first, set_verbosity
from emi_ray.errors import EmiRayError, UserError
from emi_ray.interruption import INTERRUPTED
from emi_ray.storage import explain, without_credentials
from emi_ray.time_limit import is_call_left
from emi_ray.workspace import Workspace


class Application(typer.Typer):
    """A Typer application whose help is wrapped at the width of the terminal, not where its source is wrapped."""

    def command(self, name: str | None = None, **options: Any) -> Callable[[Any], Any]:
        """Return a decorator that registers a function as a command with its docstring as help."""

        def register(function: Any) -> Any:
            # Single line breaks are those of the source; a blank line separates paragraphs.
            paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
            text = "\n\n".join(paragraph.replace("\n", " ") for paragraph in paragraphs)
            return super(Application, self).command(name, help=text, **options)(function)

        return register


app = Application(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Predict emotion intensities from clips of talking faces. To see an example, run: emi-ray demo",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        console.print(f"emi-ray {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _application(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True),
    ] = False,
    verbose: Annotated[
        int,
        typer.Option(
            "--verbose",
            "-v",
            count=True,
            show_default=False,
            help="Also show what is logged: events and Ray's warnings; -vv also shows the score of every epoch.",
        ),
    ] = 0,
    quiet: Annotated[
        bool,
        typer.Option("--quiet", "-q", help="Show only warnings and errors; the exit code says the rest."),
    ] = False,
) -> None:
    if verbose and quiet:
        raise UserError("--verbose and --quiet exclude each other: give one of them.")
    set_verbosity(Verbosity.QUIET if quiet else Verbosity(min(verbose, Verbosity.DEBUG)))


_READING = ("compare", "dashboard", "doctor", "export-features", "stats", "status")
"""Commands that write nothing into the workspace."""


def _open_workspace(context: typer.Context, root: str) -> str:
    """Check that the workspace is writable, and start the log of the command in it."""
    # Checked before the work, so that a result is not computed and then lost.
    if context.info_name not in _READING:
        Workspace(root).require_writable()
    if (place := begin_log(context.info_name or "", root)) and not console.quiet:
        errors.print(f"Log file: {place}", style="dim", highlight=False)
    return root


WorkspaceOption = Annotated[
    str,
    typer.Option(
        "--workspace",
        "-w",
        help="Folder or URI (s3://…) with all files of a project.",
        callback=_open_workspace,
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option("--address", envvar="RAY_ADDRESS", help="Ray cluster to use (default: this machine only)."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="SECTION.KEY=VALUE", help="Settings to override for this command."),
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command. Exit codes: 0 success, 1 the work failed, 2 a mistake of the user, 130 interrupted.

    Args:
        arguments: by default those of this process, which is ended afterwards.
    """
    try:
        _run(arguments)
    except SystemExit as ending:
        if arguments is None and is_call_left():  # a storage library would otherwise wait for minutes
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(int(ending.code or 0))
        raise


def _run(arguments: Sequence[str] | None) -> None:
    set_verbosity(Verbosity.NORMAL)
    try:
        app(args=flags_first(sys.argv[1:] if arguments is None else arguments))
    except SystemExit as ending:
        if ending.code == INTERRUPTED:
            _end_interrupted()
        end_log(int(ending.code or 0))
        raise
    except KeyboardInterrupt:  # a second one, while the first was handled
        _end_interrupted()
    except UserError as error:
        _end(f"Error: {error}", 2)
    except EmiRayError as error:
        _end(f"Failed: {error}", 1)
    except OSError as error:  # a fault of a disk or an object store; mistakes of the user were found before
        _end(f"Failed: {explain(error)}", 1)


def _end_interrupted() -> NoReturn:
    """End the process without the interpreter's normal exit, during which running threads of Ray can crash it
    (SIGSEGV).
    """
    # A further Ctrl-C must not interrupt the clean-up.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        _end("Interrupted. Finished work is kept; repeat the command to continue.", INTERRUPTED)
    finally:
        atexit._run_exitfuncs()  # ends the processes of Ray
        sys.stdout.flush()
        os._exit(INTERRUPTED)


def _end(message: str, code: int) -> NoReturn:
    end_log(code, message)
    # A URI in a message may contain a password.
    errors.print(without_credentials(message), style="red", highlight=False)
    sys.exit(code)
