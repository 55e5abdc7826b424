"""What a check says."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. A ``warning`` costs something; a ``problem`` makes the run fail."""

    name: str
    status: Literal["ok", "warning", "problem"]
    message: str
    remedy: str = ""
