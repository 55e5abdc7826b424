"""Fixtures of the tests of import and export."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from ready_features import make_peer_folder


@pytest.fixture
def peer_folder(tmp_path: Path) -> Path:
    """The peer's layout: 12 train, 6 val and 2 test clips; all four modalities of each."""
    return make_peer_folder(tmp_path / "peer")


@pytest.fixture
def hostile(tmp_path: Path) -> tuple[Callable[[], object], Path]:
    """Makes an object whose unpickling by ``pickle.load`` would create the file beside it."""
    trace = tmp_path / "it-ran"

    class Hostile:
        def __reduce__(self) -> tuple:
            return os.system, (f"touch {trace}",)

    return Hostile, trace
