"""What one extraction run did, stage by stage."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from emi_ray.extraction.pools import Measurement, Pool


@dataclass
class StageSummary:
    """Counts of one stage. ``seconds`` is time spent by its actors, summed over them; reasons that differ in
    numbers only count as one, told in the words of the first. ``media_s``: length of the clips that are ok."""

    ok: int = 0
    missing: int = 0
    failed: int = 0
    seconds: float = 0.0
    media_s: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)
    _first_of_kind: dict[str, str] = field(default_factory=dict, repr=False)

    def add(self, outcome: Mapping[str, Any]) -> None:
        setattr(self, outcome["status"], getattr(self, outcome["status"]) + 1)
        self.seconds += outcome["seconds"]
        if outcome["reason"]:
            kind = re.sub(r"\d[\d.,]*", "", outcome["reason"])
            self.reasons[self._first_of_kind.setdefault(kind, outcome["reason"])] += 1


@dataclass
class ExtractionSummary:
    """A whole run: ``clips`` that passed through, wall ``seconds``, and each stage's counts."""

    clips: int = 0
    already_done: int = 0
    seconds: float = 0.0
    stages: dict[str, StageSummary] = field(default_factory=dict)
    pools: Mapping[str, Pool] = field(default_factory=dict)
    measured: Measurement | None = None

    @property
    def clips_per_s(self) -> float:
        return self.clips / self.seconds if self.seconds else 0.0

    def real_time_factor(self, stage: str) -> float:
        """Actor seconds of a stage per second of media: 0.1 means ten times faster than real time."""
        done = self.stages[stage]
        return done.seconds / done.media_s if done.media_s else 0.0

    def busy(self, stage: str) -> float:
        """Share of the run that the stage's actors, at their most, spent working."""
        actors = self.pools[stage].max_actors if stage in self.pools else 1
        return self.stages[stage].seconds / (self.seconds * actors) if self.seconds else 0.0

    def share_of_bare_speed(self, stage: str) -> float | None:
        """Rate of the run over the rate of the stage's bare model on ready inputs; None if not measured."""
        if self.measured is None or stage == "decode" or not self.seconds:
            return None
        bare = self.measured.seconds_per_media_s[stage] / self.pools[stage].max_actors
        return bare * self.stages[stage].media_s / self.seconds

    @property
    def bottleneck(self) -> str | None:
        """The stage whose actors were busiest; None when nothing ran."""
        return max(self.stages, key=self.busy, default=None)

    def add(self, outcomes: Iterable[Mapping[str, Any]]) -> None:
        """Count one clip's way through the pipeline."""
        self.clips += 1
        outcomes = list(outcomes)
        media_s = sum(outcome["media_s"] for outcome in outcomes)
        for outcome in outcomes:
            self.add_outcome(outcome)
            if outcome["status"] == "ok":
                self.stages[outcome["stage"]].media_s += media_s

    def add_outcome(self, outcome: Mapping[str, Any]) -> None:
        """Count what one stage made of one clip."""
        self.stages.setdefault(outcome["stage"], StageSummary()).add(outcome)
