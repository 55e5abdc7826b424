"""Fills the reference pages from the code while MkDocs builds them.

A page asks for generated text with a comment on a line of its own:

    <!-- generated: commands -->                             every command of the command line
    <!-- generated: settings emi_ray.config.MediaSettings -->  the fields of a settings model
    <!-- generated: schema emi_ray.schema.FAILURES_SCHEMA -->  the columns of an Arrow schema
    <!-- generated: extractors -->                           extractors with their weights and licences
    <!-- generated: recipes -->                              the recipes that are shipped
"""

import re
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import command_pages
import settings_pages
import table_pages

GENERATORS: dict[str, Callable[..., str]] = {
    "commands": command_pages.commands,
    "settings": lambda name: settings_pages.settings(_find(name)),
    "schema": lambda name: table_pages.schema(_find(name)),
    "extractors": table_pages.extractors,
    "recipes": table_pages.recipes,
}
_REQUEST = re.compile(r"^<!-- generated: (.+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The event of MkDocs that gives the source of a page: replaces each request by what it asks for."""
    return _REQUEST.sub(lambda request: _generate(request[1].split()), markdown)


def _generate(words: Sequence[str]) -> str:
    name, *arguments = words
    return GENERATORS[name](*arguments)


def _find(name: str) -> Any:
    """The object of a dotted name."""
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)
