"""One line of the status: a thing that a workspace holds or should hold."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Line:
    """How one thing stands.

    Attributes:
        stage: ``corpus``, ``features``, ``transcripts``, ``encoders``, ``runs``, ``studies`` or ``predictions``.
        name: which of them.
        current, stale, missing, quarantined: how many clips (of features, transcripts, predictions), files (of
            encoders), or 1 for a run or a study.
        why: what is behind the numbers, a sentence each, without a full stop.
        fingerprint: of features and transcripts, what made them.
        command: what brings it up to date; None where nothing has to be done or nothing can be.
    """

    stage: str
    name: str
    current: int = 0
    stale: int = 0
    missing: int = 0
    quarantined: int = 0
    why: tuple[str, ...] = ()
    command: str | None = None
    fingerprint: str = ""


@dataclass(frozen=True)
class Status:
    """All lines, in the order in which work is done."""

    lines: tuple[Line, ...] = field(default_factory=tuple)

    @property
    def commands(self) -> list[str]:
        """What brings everything up to date, in order, each once."""
        return list(dict.fromkeys(line.command for line in self.lines if line.command is not None))
