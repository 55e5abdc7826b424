"""The terminal: standard output, standard error, and how much is shown there (``-v``, ``-q``).

Results, tables and progress go to ``console``, which is standard output. Errors and the records of the package's
logger ``emi_ray`` go to standard error.
"""

import logging
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

from rich.console import Console

from emi_ray.cli.log import LOG
from emi_ray.storage import without_credentials


class Terminal(Console):
    """Prints text as it is: no markup, and no line break in the middle of a path, which could not be copied."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as Rich does; the terminal wraps the lines of plain text, tables are wrapped here."""
        if all(isinstance(each, str) for each in objects):
            options.setdefault("soft_wrap", True)
        super().print(*objects, **options)


console = Terminal()
errors = Terminal(stderr=True)

_FLAGS = ("-q", "--quiet", "-v", "-vv", "--verbose")


class Verbosity(IntEnum):
    """How much of a command is shown in the terminal."""

    QUIET = -1
    """Only warnings and errors."""
    NORMAL = 0
    """Also results, progress, and what the package says about the cluster."""
    VERBOSE = 1
    """Also everything that the log file of a long command holds: events, and Ray's warnings."""
    DEBUG = 2
    """Also events that are too many for a log file, such as the score of every epoch."""


class TerminalLog(logging.Handler):
    """Prints records of the package's logger on standard error, as the verbosity has it."""

    def __init__(self, verbosity: Verbosity) -> None:
        super().__init__()
        self.verbosity = verbosity

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is shown."""
        if self.verbosity == Verbosity.DEBUG:
            return True
        if self.verbosity == Verbosity.VERBOSE:
            return record.levelno >= logging.INFO
        # Ray warns of much that it mends itself; its warnings are in the log file.
        is_ours = record.name.split(".")[0] == "emi_ray" and record.name != "emi_ray.ray"
        is_note = record.name.startswith("emi_ray.runtime") and self.verbosity == Verbosity.NORMAL
        return is_ours and record.levelno >= (logging.INFO if is_note else logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        is_warning = record.levelno >= logging.WARNING
        text = without_credentials(record.getMessage())
        if is_warning and not text.startswith("Warning"):
            text = f"Warning: {text}"
        style = "yellow" if is_warning else "dim" if self.verbosity > Verbosity.NORMAL else None
        errors.print(text, style=style, highlight=False)


def set_verbosity(verbosity: Verbosity) -> None:
    """Show as much of this process's command as ``verbosity`` says."""
    # Tests and notebooks run several commands in one process.
    for handler in [handler for handler in LOG.handlers if isinstance(handler, TerminalLog)]:
        LOG.removeHandler(handler)
    LOG.addHandler(TerminalLog(verbosity))
    LOG.setLevel(logging.DEBUG if verbosity == Verbosity.DEBUG else logging.INFO)
    console.quiet = verbosity == Verbosity.QUIET


def warn(text: str) -> None:
    """Show a warning, whatever the verbosity, and keep it in the log file."""
    LOG.warning("%s", text)


def flags_first(arguments: Sequence[str]) -> list[str]:
    """Return command-line arguments with ``-v`` and ``-q`` moved to the front, so that they may follow the command.

    What stands behind ``--`` stays as it is.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    flags = [argument for argument in arguments[:end] if argument in _FLAGS]
    return [*flags, *(argument for argument in arguments[:end] if argument not in _FLAGS), *arguments[end:]]
