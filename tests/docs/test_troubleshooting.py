"""The troubleshooting page quotes messages that exist in the code."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import emi_ray

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "troubleshooting.md"
MESSAGES = re.findall(r"^### `(.+?)`", PAGE.read_text(), re.MULTILINE)


@cache
def texts_of_the_code() -> str:
    return "\n".join(
        text for path in Path(emi_ray.__file__).parent.rglob("*.py") for text in _texts(path.read_text())
    )


def _texts(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_there_are_twenty_messages():
    assert len(MESSAGES) >= 20


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_of_the_page_is_in_the_code(message: str):
    for piece in message.split("…"):
        assert piece.strip() in texts_of_the_code(), piece
