"""The state of an unfinished training, ``checkpoints/<key>.pt`` in the workspace.

The key is a hash of everything that determines the training, so that a training only resumes its own state. The
file is removed when the training is finished.
"""

import io
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pickle import UnpicklingError
from typing import Any

from emi_ray.storage import in_words
from emi_ray.workspace import Workspace

_LOG = logging.getLogger(__name__)

_SHARE_OF_TIME = 10
"""Writing states takes at most a tenth of the time (1 / 10), because states of backbones have gigabytes."""

_EVERY_S_BEHIND_A_URI = 30.0
"""Minimum interval behind a URI, because every write to an object store costs a request."""


@dataclass
class ResumeState:
    """Stores and finds the state of one training.

    Args:
        workspace: contains the state.
        key: hash of everything that determines the training.
        every_s: minimum seconds between two states, which is about the work that a crash can cost; at least 30 behind
            a URI. States are only written between epochs.
    """

    workspace: Workspace
    key: str
    every_s: float = 2.0
    _next: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if not self.workspace.is_local:
            self.every_s = max(self.every_s, _EVERY_S_BEHIND_A_URI)
        # The first state is written after an interval, not in the first epoch.
        self._next = time.monotonic() + self.every_s

    @property
    def path(self) -> str:
        return f"checkpoints/{self.key}.pt"

    def load(self) -> dict[str, Any] | None:
        """Load the last state; None if there is none, or if its file is damaged, as after a power failure."""
        try:
            data = self.workspace.read_bytes(self.path)
        except FileNotFoundError:
            return None
        import torch  # not at the top: the driver only removes states

        try:
            # weights_only admits tensors and plain values, so a tampered file cannot execute code.
            state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except (EOFError, RuntimeError, ValueError, UnpicklingError) as error:
            _LOG.warning(
                "%s cannot be read (%s): the training begins anew",
                self.workspace.shown(self.path),
                in_words(error),
            )
            return None
        return state

    def keep(self, build: Callable[[], dict[str, Any]], stage_ended: bool) -> None:
        """Store the state that ``build`` returns, if enough time has passed or, on a local disk, a stage ended."""
        started = time.monotonic()
        # The end of a stage is kept at once, because the next stage depends on all of its work.
        if started < self._next and not (stage_ended and self.workspace.is_local):
            return
        import torch

        stream = io.BytesIO()
        torch.save(build(), stream)
        self.workspace.write_bytes(self.path, stream.getvalue())
        ended = time.monotonic()
        self._next = ended + max(self.every_s, _SHARE_OF_TIME * (ended - started))

    def forget(self) -> None:
        """Remove the state, because the training is finished or starts from the beginning."""
        self.workspace.delete_file(self.path)
