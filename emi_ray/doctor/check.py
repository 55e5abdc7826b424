"""The result of a check."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Check:
    """The result of one check. A ``warning`` is a disadvantage; a ``problem`` makes the run fail."""

    name: str
    status: Literal["ok", "warning", "problem"]
    message: str
    remedy: str = ""
