"""Count what one extraction run did, by stage and by actor."""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from emi_ray.events import count, tell
from emi_ray.extraction.actors import Life, life_of
from emi_ray.extraction.pools import Measurement, Pool, processes_of
from emi_ray.wording import NUMBERS, plural, without_numbers


@dataclass
class ActorSummary:
    """The work of one actor in all of its processes: after Ray has restarted it, it is still the same actor.

    Attributes:
        gpus: ids of the GPUs that Ray assigned, as text; empty on the CPU.
        pids: ids of its processes on its node.
    """

    node: str
    gpus: tuple[str, ...]
    clips: int = 0
    busy_s: float = 0.0
    pids: set[int] = field(default_factory=set, repr=False)
    _was_restarted: bool = False

    def add(self, life: Life, count: int, seconds: float) -> None:
        self.node, self.gpus = life.node, life.gpus
        self.clips += count
        self.busy_s += seconds
        self.pids.add(life.pid)
        self._was_restarted |= life.was_restarted

    @property
    def restarts(self) -> int:
        """The number of restarts.

        A process that died before it finished a clip is noticed only through its successor.
        """
        return max(len(self.pids) - 1, int(self._was_restarted))


@dataclass
class StageSummary:
    """Counts of one stage.

    Attributes:
        seconds: working time, summed over the actors; that of processes which died is not included.
        media_s: total length in seconds of the clips that are ok.
        reasons: number of clips without a result, by reason. Reasons that differ only in numbers count as one, in the
            words of one of them.
        remarks: number of clips that are ok, by a remark on them; counted like reasons.
    """

    ok: int = 0
    missing: int = 0
    failed: int = 0
    seconds: float = 0.0
    media_s: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)
    remarks: Counter[str] = field(default_factory=Counter)
    actors: dict[str, ActorSummary] = field(default_factory=dict)
    _first_of_kind: dict[str, str] = field(default_factory=dict, repr=False)

    def add(self, status: str, reason: str | None, count: int, seconds: float) -> None:
        """Count clips with the same status and reason. Each line of ``reason`` is a separate reason or remark."""
        setattr(self, status, getattr(self, status) + count)
        self.seconds += seconds
        counter = self.remarks if status == "ok" else self.reasons
        for line in (reason or "").splitlines():
            counter[self._first_of_kind.setdefault(without_numbers(line), line)] += count

    def add_to_actor(self, told: str, count: int, seconds: float) -> None:
        """Add clips to the count of the actor that processed them."""
        life = life_of(told)
        self.actors.setdefault(life.owner, ActorSummary(life.node, life.gpus)).add(life, count, seconds)


@dataclass(repr=False)
class ExtractionSummary:
    """Counts of a whole run.

    Attributes:
        clips: number of clips that passed through the pipeline.
        already_done: number of clips without anything to do.
        seconds: wall time.
        redone: by modality and reason, the number of clips whose existing features were extracted again.
        lifted: by modality and reason, the number of quarantined clips that were tried again.
        notes: messages for the user.

    Examples:
        >>> emi_ray.extract("work", ["text"]).already_done
        48
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
    _pass_s: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """For each stage, the total length in seconds of the passes that included it."""
    _actor_s: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """For each stage, the sum over these passes of their length multiplied by its number of actors."""

    def note(self, what: str) -> None:
        """Add a message for the user, unless it is already there."""
        if what not in self.notes:
            self.notes.append(what)

    def __repr__(self) -> str:
        stages = (f"; {name} {stage.ok:,} ok, {stage.failed:,} failed" for name, stage in self.stages.items())
        return f"ExtractionSummary({plural(self.clips, 'clip')} in {self.seconds:.1f} s{''.join(stages)})"

    @property
    def clips_per_s(self) -> float:
        return self.clips / self.seconds if self.seconds else 0.0

    def real_time_factor(self, stage: str) -> float | None:
        """Return actor seconds of a stage per second of media: 0.1 means ten times faster than real time.

        None if the clips have no duration (texts).
        """
        done = self.stages[stage]
        return done.seconds / done.media_s if done.media_s else None

    def add_pass(self, pools: Mapping[str, Pool], seconds: float) -> None:
        """Add the length of a pass and its numbers of actors."""
        for name, pool in pools.items():
            self._pass_s[name] += seconds
            self._actor_s[name] += seconds * pool.max_actors

    def mean_actors(self, stage: str) -> float:
        """Return the mean number of actors that a stage had, over the time of the passes that included it."""
        if self._pass_s[stage]:
            return self._actor_s[stage] / self._pass_s[stage]
        return self.pools[stage].max_actors if stage in self.pools else 1

    def busy(self, stage: str) -> float:
        """Return the fraction of the run's time that the stage's actors spent working, 0 to 1."""
        return self.stages[stage].seconds / (self.seconds * self.mean_actors(stage)) if self.seconds else 0.0

    def share_of_bare_speed(self, stage: str) -> float | None:
        """Return the rate of the run divided by the rate of the stage's model alone on prepared inputs.

        None if that was not measured, or the clips have no duration.
        """
        alone = self.measured.seconds_per_media_s.get(stage) if self.measured else None
        if alone is None or stage == "decode" or not self.seconds or not self.stages[stage].media_s:
            return None
        return alone * self.stages[stage].media_s / (self.seconds * self.mean_actors(stage))

    @property
    def bottleneck(self) -> str | None:
        """The slowest stage of those that share the busiest actors; None if nothing ran."""
        sharing = [[name for name in names if name in self.stages] for names in processes_of(self.pools)]
        busiest = max(sharing, key=lambda names: sum(map(self.busy, names)), default=[])
        return max(busiest, key=self.busy, default=None)

    def add_table(self, table: pa.Table, are_new: bool = True, decoded: Collection[str] = ()) -> list[str]:
        """Count clips that have left the pipeline, and return their ids.

        Arrow counts the rows by group, because a million clips pass through the driver.

        Args:
            table: rows of ``clip_id`` and ``outcomes``.
            are_new: False if an earlier pass has counted these clips.
            decoded: ids of clips whose decoding an earlier pass has counted; only the time is added.
        """
        ids: list[str] = table["clip_id"].to_pylist()
        self.clips += len(ids) * are_new
        lists = table["outcomes"].combine_chunks()
        entries = pa.Table.from_struct_array(lists.flatten())
        clip = pc.list_parent_indices(lists).to_numpy()
        media_s = np.bincount(clip, entries["media_s"].to_numpy(), len(ids))
        place = entries.schema.get_field_index("media_s")
        entries = entries.set_column(place, "media_s", pa.array(media_s[clip]))
        # Reasons that differ only in numbers are one group, in the words of one of them.
        entries = entries.append_column("kind", pc.replace_substring_regex(entries["reason"], NUMBERS, ""))
        is_again = np.isin(clip, [index for index, name in enumerate(ids) if name in decoded])
        is_again &= pc.equal(entries["stage"], "decode").to_numpy()
        entries = entries.append_column("is_again", pa.array(is_again))
        keys = ["stage", "status", "kind", "actor", "is_again"]
        sums = entries.group_by(keys).aggregate(
            [("reason", "min"), ("seconds", "sum"), ("media_s", "sum"), ("stage", "count")]
        )
        for row in sums.to_pylist():
            stage = self.stages.setdefault(row["stage"], StageSummary())
            if row["is_again"]:
                stage.seconds += row["seconds_sum"]
                stage.add_to_actor(row["actor"], 0, row["seconds_sum"])
                continue
            stage.add(row["status"], row["reason_min"], row["stage_count"], row["seconds_sum"])
            count("clips", stage=row["stage"], status=row["status"], count=row["stage_count"])
            stage.add_to_actor(row["actor"], row["stage_count"], row["seconds_sum"])
            if row["status"] == "ok":
                stage.media_s += row["media_s_sum"]
        _tell_failures(entries, clip, ids)
        return ids

    def add_outcome(self, outcome: Mapping[str, Any], num_clips: int = 1) -> None:
        """Count the same outcome of some clips in one stage."""
        stage = self.stages.setdefault(outcome["stage"], StageSummary())
        stage.add(outcome["status"], outcome["reason"], num_clips, outcome["seconds"])
        count("clips", stage=outcome["stage"], status=outcome["status"], count=num_clips)

    def add_failure(self, clip_id: str, outcome: Mapping[str, Any]) -> None:
        """Count the outcome of a clip that has no result, and emit an event if the clip is quarantined."""
        self.add_outcome(outcome)
        if outcome["status"] == "failed":
            tell("clip_quarantined", clip_id=clip_id, stage=outcome["stage"], reason=outcome["reason"])


def _tell_failures(entries: pa.Table, clip: np.ndarray, ids: Sequence[str]) -> None:
    """Emit an event for each clip that is quarantined.

    Args:
        entries: the outcomes.
        clip: for each outcome, the index of its clip in ``ids``.
    """
    failed = pc.equal(entries["status"], "failed").to_numpy(zero_copy_only=False)
    for row, which in zip(entries.filter(pa.array(failed)).to_pylist(), clip[failed], strict=True):
        tell("clip_quarantined", clip_id=ids[which], stage=row["stage"], reason=row["reason"])
