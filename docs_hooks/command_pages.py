"""The command line as Markdown, generated from the application: one section per command."""

import re
from typing import Any, get_args

import typer
from markdown_text import cell, code, table

from emi_ray.cli import main  # noqa: F401 - imports every command
from emi_ray.cli.app import app


def commands() -> str:
    """Return the sections of all commands, in the order of ``emi-ray --help``."""
    verbs = typer.main.get_command(app).commands
    return "\n\n".join(_section(name, command) for name, command in verbs.items())


def _section(name: str, command: Any) -> str:
    text, _, examples = command.help.partition("Example:")
    found = [
        re.sub(r"\s+", " ", example).strip() for example in examples.split("Example:") if example.strip()
    ]
    shown = [parameter for parameter in command.params if not parameter.hidden and parameter.name != "help"]
    parts = [f"## `{name}` {{#{name}}}", text.strip(), "```sh\n" + "\n".join(found) + "\n```"]
    if shown:
        parts.append(
            table(["argument or option", "value", "default", "meaning"], [_row(each) for each in shown])
        )
    return "\n\n".join(parts)


def _row(parameter: Any) -> list[str]:
    named = getattr(parameter, "opts", [])
    is_option = any(opt.startswith("-") for opt in named)
    name = (
        ", ".join(code(opt) for opt in named)
        if is_option
        else code(parameter.metavar or parameter.name.upper())
    )
    meaning = [parameter.help or ""]
    if parameter.envvar:
        meaning.append(f"Environment: {code(parameter.envvar)}.")
    if getattr(parameter, "multiple", False):
        meaning.append("May be repeated.")
    return [name, _value(parameter), _default(parameter), cell(" ".join(meaning))]


def _value(parameter: Any) -> str:
    if getattr(parameter, "is_flag", False):
        return "flag"
    annotation = parameter.type_descriptor.annotation
    if isinstance(annotation, type) and not get_args(annotation):
        bounds = [f"≥ {parameter.min}"] * (parameter.min is not None)
        bounds += [f"≤ {parameter.max}"] * (parameter.max is not None)
        names = {"str": "text", "int": "integer", "float": "number", "Path": "path"}
        return ", ".join([names.get(annotation.__name__, annotation.__name__), *bounds])
    choices = [each for each in get_args(annotation) if isinstance(each, str)]
    return " ".join(code(each) for each in choices) if choices else "text"


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    if parameter.default is None or parameter.default is False:
        return ""
    return code(str(parameter.default))
