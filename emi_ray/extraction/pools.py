"""How many actors of what size each stage gets."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from emi_ray.config import ExtractionSettings, StageSettings
from emi_ray.runtime import Machine

BATCH_SIZE = {"text": 128}
GPU_BATCH_SIZE = {"text": 512}
"""Clips a batch on a CPU and on a GPU, where it is not 8 and 32. An extractor sorts the clips of a batch by length
before it forms the batches of its model. Text is tiny: a large window costs nothing and leaves little padding."""

CPUS_OF_AN_ACTOR = 0.25
"""That an actor on the CPU reserves at most."""

MODEL_ACTORS = 4
THREADS_OF_A_MODEL = 8
"""On a CPU a model has an actor for each core, at most four, since each holds the weights; beyond these, an actor for
every eight cores. Two actors of one thread do 1.1 to 1.6 times the work of one of two (benchmarks/README.md)."""


@dataclass(frozen=True)
class Pool:
    """One stage's actors: each takes ``batch_size`` clips at a time and computes on ``threads`` threads.

    ``num_gpus``: what one process takes, with all models that it holds. The pool has its full size from the start.
    """

    batch_size: int
    max_actors: int
    num_cpus: float
    num_gpus: float
    threads: int

    def one_by_one(self) -> "Pool":
        """The same actors taking single clips."""
        return replace(self, batch_size=1)


@dataclass(frozen=True)
class Measurement:
    """Seconds that one actor, undisturbed, spends in each stage: on one clip, and on one second of media.

    For an extractor this is the time of the bare model on ready inputs: the rate that a run cannot exceed.
    """

    seconds_per_clip: Mapping[str, float]
    seconds_per_media_s: Mapping[str, float]


def plan_pools(
    machine: Machine,
    stages: Mapping[str, bool],
    settings: ExtractionSettings,
    measured: Measurement | None = None,
) -> dict[str, Pool]:
    """A pool for each stage; numbers set by hand in ``settings.stages`` win.

    Pretrained models share the GPUs evenly, whatever each of them costs: one process a GPU holds all models (see
    :func:`processes_of`), so that their pools are equally large. Stages on the CPU share the cores that these
    leave, by the time that they take. Actors on the CPU reserve a fraction of a logical CPU each, and those on a GPU
    none, so that all pools always fit at once: a pool that waits for CPUs which the others hold would wait for ever.

    Args:
        stages: by name, whether a stage runs a pretrained model.
        measured: by default decoding weighs three times as much as all else.
    """
    by_hand = settings.stages
    on_gpu = [
        name for name, is_model in stages.items() if is_model and wants_gpu(name, settings) and machine.gpus
    ]
    on_cpu = [name for name in stages if name not in on_gpu]
    together = _gpu_pool(machine, [by_hand.get(name, StageSettings()) for name in on_gpu])
    cores = max(machine.cpus - (together.max_actors if on_gpu else 0), 1)
    seconds = measured.seconds_per_clip if measured else {}
    weights = {name: seconds.get(name, 0.0) or _default_weight(name, len(on_cpu)) for name in on_cpu}
    share = cores / sum(weights.values()) if weights else 0.0
    pools = {}
    for name, is_model in stages.items():
        sizes = by_hand.get(name, StageSettings())
        if name in on_gpu:
            pools[name] = replace(together, batch_size=sizes.batch_size or GPU_BATCH_SIZE.get(name, 32))
            continue
        actors = max(1, math.floor(weights[name] * share + 0.5))
        if is_model:
            actors = max(min(cores, MODEL_ACTORS), cores // THREADS_OF_A_MODEL)
        threads = max(cores // actors, 1) if is_model else 1
        pools[name] = _by_hand(Pool(_batch_size(name), actors, CPUS_OF_AN_ACTOR, 0.0, threads), sizes)
    return _reserving_no_more(pools, machine.cpus, by_hand)


def _reserving_no_more(
    pools: dict[str, Pool], cpus: int, by_hand: Mapping[str, StageSettings]
) -> dict[str, Pool]:
    """The same pools, whose actors on the CPU reserve less each where they are more than four to a core."""
    free = [
        name for name in pools if not pools[name].num_gpus and not by_hand.get(name, StageSettings()).num_cpus
    ]
    actors = sum(pools[name].max_actors for name in free)
    share = min(CPUS_OF_AN_ACTOR, math.floor(100 * cpus / max(actors, 1)) / 100)
    return {name: replace(pool, num_cpus=share) if name in free else pool for name, pool in pools.items()}


def wants_gpu(stage: str, settings: ExtractionSettings) -> bool:
    """Whether a stage that runs a model may have a GPU; ``num_gpus: 0`` set by hand keeps it on the CPU."""
    chosen = settings.stages.get(stage)
    return chosen is None or chosen.num_gpus != 0


def processes_of(pools: Mapping[str, Pool]) -> list[list[str]]:
    """The stages by the process that runs them, in their order: those on the GPU go together, others alone.

    Ray packs actors that take fractions of a GPU onto the first GPUs and leaves others idle (ray #28679). Actors
    that take a whole one cannot be packed: each GPU has exactly one process, and so one copy of each model.
    """
    groups: list[list[str]] = []
    for name, pool in pools.items():
        if pool.num_gpus and groups and pools[groups[-1][0]].num_gpus:
            groups[-1].append(name)
        else:
            groups.append([name])
    return groups


def _gpu_pool(machine: Machine, by_hand: Sequence[StageSettings]) -> Pool:
    """The processes that hold all models, for the strictest of what is set by hand."""
    share = max((each.num_gpus for each in by_hand if each.num_gpus), default=1.0)
    actors = machine.gpus * math.floor(1 / share)
    actors = min([actors, *(each.max_actors for each in by_hand if each.max_actors)])
    cpus = max((each.num_cpus for each in by_hand if each.num_cpus), default=0.0)
    threads = max((each.threads for each in by_hand if each.threads), default=1)
    return Pool(1, actors, cpus, share, threads)


def _batch_size(stage: str) -> int:
    return BATCH_SIZE.get(stage, 8)


def _default_weight(stage: str, num_stages: int) -> float:
    return 3 * max(num_stages - 1.0, 1.0) if stage == "decode" else 1.0


def _by_hand(pool: Pool, wanted: StageSettings) -> Pool:
    given = {key: value for key, value in wanted.model_dump().items() if value is not None}
    given.pop("num_gpus", None)
    return replace(pool, **given)
