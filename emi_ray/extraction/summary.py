"""What one extraction run did, stage by stage."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from emi_ray.events import count, tell
from emi_ray.extraction.actors import Life, life_of
from emi_ray.extraction.pools import Measurement, Pool


@dataclass
class ActorSummary:
    """What one actor did in all its lives: a process that Ray starts anew is the same actor.

    ``gpus``: the ids that Ray assigned, as text; empty on the CPU. Of a life that ended before it finished a
    clip nothing is known but that a later one followed.
    """

    node: str
    gpus: tuple[str, ...]
    clips: int = 0
    busy_s: float = 0.0
    _pids: set[int] = field(default_factory=set, repr=False)
    _was_restarted: bool = False

    def add(self, life: Life, count: int, seconds: float) -> None:
        self.node, self.gpus = life.node, life.gpus
        self.clips += count
        self.busy_s += seconds
        self._pids.add(life.pid)
        self._was_restarted |= life.was_restarted

    @property
    def restarts(self) -> int:
        return max(len(self._pids) - 1, int(self._was_restarted))


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
    actors: dict[str, ActorSummary] = field(default_factory=dict)
    _first_of_kind: dict[str, str] = field(default_factory=dict, repr=False)

    def add(self, status: str, reason: str | None, count: int, seconds: float) -> None:
        """Count clips with the same status and reason; each line of the reason is one."""
        setattr(self, status, getattr(self, status) + count)
        self.seconds += seconds
        for line in (reason or "").splitlines():
            kind = re.sub(r"\d[\d.,]*", "", line)
            self.reasons[self._first_of_kind.setdefault(kind, line)] += count

    def add_to_actor(self, told: str, count: int, seconds: float) -> None:
        """Count clips that an actor worked on."""
        life = life_of(told)
        self.actors.setdefault(life.owner, ActorSummary(life.node, life.gpus)).add(life, count, seconds)


@dataclass
class ExtractionSummary:
    """A whole run: ``clips`` that passed through, wall ``seconds``, and each stage's counts.

    ``redone``: by modality, why features that were there were made anew, and of how many clips; ``lifted``: why clips
    that were quarantined were tried again.
    """

    clips: int = 0
    already_done: int = 0
    seconds: float = 0.0
    stages: dict[str, StageSummary] = field(default_factory=dict)
    pools: Mapping[str, Pool] = field(default_factory=dict)
    measured: Measurement | None = None
    redone: Mapping[str, Counter[str]] = field(default_factory=dict)
    lifted: Mapping[str, Counter[str]] = field(default_factory=dict)
    passes: int = 0
    nodes_lost: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def note(self, what: str) -> None:
        """Remember something that a user should know, once."""
        if what not in self.notes:
            self.notes.append(what)

    @property
    def clips_per_s(self) -> float:
        return self.clips / self.seconds if self.seconds else 0.0

    def real_time_factor(self, stage: str) -> float | None:
        """Actor seconds of a stage per second of media: 0.1 means ten times faster than real time. None where the
        clips have no duration, as texts."""
        done = self.stages[stage]
        return done.seconds / done.media_s if done.media_s else None

    def busy(self, stage: str) -> float:
        """Share of the run that the stage's actors, at their most, spent working."""
        actors = self.pools[stage].max_actors if stage in self.pools else 1
        return self.stages[stage].seconds / (self.seconds * actors) if self.seconds else 0.0

    def share_of_bare_speed(self, stage: str) -> float | None:
        """Rate of the run over the rate of the stage's bare model on ready inputs; None if that was not measured, or
        the clips have no duration."""
        if self.measured is None or stage == "decode" or not self.seconds or not self.stages[stage].media_s:
            return None
        bare = self.measured.seconds_per_media_s[stage] / self.pools[stage].max_actors
        return bare * self.stages[stage].media_s / self.seconds

    @property
    def bottleneck(self) -> str | None:
        """The stage whose actors were busiest; None when nothing ran."""
        return max(self.stages, key=self.busy, default=None)

    def add_table(self, table: pa.Table, are_new: bool = True) -> list[str]:
        """Count clips on their way through the pipeline, rows of ``clip_id`` and ``outcomes``; returns their ids.

        Rows are counted by Arrow, a group at a time: a million clips pass through the driver.

        Args:
            are_new: whether no earlier pass has counted these clips.
        """
        ids: list[str] = table["clip_id"].to_pylist()
        self.clips += len(ids) * are_new
        lists = table["outcomes"].combine_chunks()
        entries = pa.Table.from_struct_array(lists.flatten())
        clip = pc.list_parent_indices(lists).to_numpy()
        media_s = np.bincount(clip, entries["media_s"].to_numpy(), len(ids))
        place = entries.schema.get_field_index("media_s")
        entries = entries.set_column(place, "media_s", pa.array(media_s[clip]))
        keys = ["stage", "status", "reason", "actor"]
        sums = entries.group_by(keys).aggregate([("seconds", "sum"), ("media_s", "sum"), ("stage", "count")])
        for row in sums.to_pylist():
            stage = self.stages.setdefault(row["stage"], StageSummary())
            stage.add(row["status"], row["reason"], row["stage_count"], row["seconds_sum"])
            count("clips", stage=row["stage"], status=row["status"], count=row["stage_count"])
            stage.add_to_actor(row["actor"], row["stage_count"], row["seconds_sum"])
            if row["status"] == "ok":
                stage.media_s += row["media_s_sum"]
        _tell_failures(entries, clip, ids)
        return ids

    def add_outcome(self, outcome: Mapping[str, Any]) -> None:
        """Count what one stage made of one clip."""
        stage = self.stages.setdefault(outcome["stage"], StageSummary())
        stage.add(outcome["status"], outcome["reason"], 1, outcome["seconds"])
        count("clips", stage=outcome["stage"], status=outcome["status"], count=1)


def _tell_failures(entries: pa.Table, clip: np.ndarray, ids: Sequence[str]) -> None:
    """An event for each clip that is quarantined.

    Args:
        entries: outcomes; ``clip`` says for each which of ``ids`` it is about.
    """
    failed = pc.equal(entries["status"], "failed").to_numpy(zero_copy_only=False)
    for row, which in zip(entries.filter(pa.array(failed)).to_pylist(), clip[failed], strict=True):
        tell("clip_quarantined", clip_id=ids[which], stage=row["stage"], reason=row["reason"])
