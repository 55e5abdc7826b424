"""The state of a training that is not finished, ``checkpoints/<key>.pt`` in the workspace.

The key is a hash of everything that determines the training, so that a training resumes its own state only. The file
is removed when the training is finished.
"""

import io
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from emi_ray.workspace import Workspace

_SHARE_OF_TIME = 10
"""A state is written at most so often that writing takes a tenth of the time: those of backbones are gigabytes."""

_EVERY_S_BEHIND_A_URI = 30.0
"""Every write to an object store is a request that is paid for."""


@dataclass
class Unfinished:
    """Keeps and finds the state of one training.

    Args:
        every_s: seconds of work between two states, and so about what a crash may cost; a longer epoch costs itself.
            Behind a URI 30 at least.
    """

    workspace: Workspace
    key: str
    every_s: float = 2.0
    _next: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if not self.workspace.is_local:
            self.every_s = max(self.every_s, _EVERY_S_BEHIND_A_URI)
        self._next = time.monotonic() + self.every_s

    @property
    def path(self) -> str:
        return f"checkpoints/{self.key}.pt"

    def load(self) -> dict[str, Any] | None:
        """The last state that was kept; None where there is none."""
        try:
            data = self.workspace.read_bytes(self.path)
        except FileNotFoundError:
            return None
        import torch  # not at the top: the driver only removes states

        state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        return state

    def keep(self, build: Callable[[], dict[str, Any]], stage_ended: bool) -> None:
        """Keep the state that ``build`` returns if it is time for one, or if a stage has just ended."""
        started = time.monotonic()
        if started < self._next and not (stage_ended and self.workspace.is_local):
            return
        import torch

        stream = io.BytesIO()
        torch.save(build(), stream)
        self.workspace.write_bytes(self.path, stream.getvalue())
        ended = time.monotonic()
        self._next = ended + max(self.every_s, _SHARE_OF_TIME * (ended - started))

    def forget(self) -> None:
        """Remove the state: the training is finished, or is to begin anew."""
        self.workspace.delete_file(self.path)
