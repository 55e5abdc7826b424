"""One line of the status: one object that a workspace has or should have."""

from dataclasses import KW_ONLY, dataclass, field


@dataclass(frozen=True)
class Line:
    """The status of one object.

    Attributes:
        stage: ``corpus``, ``features``, ``transcripts``, ``encoders``, ``runs``, ``studies`` or ``predictions``.
        name: name of the object.
        current, stale, missing, quarantined: number of clips (of features, transcripts, predictions), of files (of
            encoders), or 1 for a run or a study.
        lacking: how many of the quarantined clips lack an input, so that trying them again does not help.
        why: explanations, a sentence each, without a full stop.
        fingerprint: of features and transcripts, the fingerprint of their extractor or recogniser.
        command: the command that brings it up to date; None if none is needed or possible.
    """

    stage: str
    name: str
    _: KW_ONLY
    current: int = 0
    stale: int = 0
    missing: int = 0
    quarantined: int = 0
    lacking: int = 0
    why: tuple[str, ...] = ()
    command: str | None = None
    fingerprint: str = ""


@dataclass(frozen=True)
class Status:
    """All lines, in the order in which work is done."""

    lines: tuple[Line, ...] = field(default_factory=tuple)

    @property
    def commands(self) -> list[str]:
        """The commands that bring everything up to date, in order, each once."""
        return list(dict.fromkeys(line.command for line in self.lines if line.command is not None))
