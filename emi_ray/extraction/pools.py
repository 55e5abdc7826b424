"""Choose the number and size of the actors of each stage."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from emi_ray.config import ExtractionSettings, StageSettings
from emi_ray.runtime import Machine

BATCH_SIZE = {"text": 128}
GPU_BATCH_SIZE = {"audio": 64, "text": 512}
"""Clips per batch on a CPU and on a GPU; the default is 8 and 32. An extractor sorts the clips of a batch by length
before it forms the batches of its model. Text is small, so a large batch costs little and reduces padding. With 32
clips of sound, launching the kernels of wav2vec2-large takes an H100 almost as long as computing them."""

CPUS_OF_AN_ACTOR = 0.25
"""Logical CPUs that an actor on the CPU reserves at most."""

MODEL_ACTORS = 4
THREADS_OF_A_MODEL = 8
"""On a CPU a model has one actor per core, but at most four, since each holds the weights; machines with more than 32
cores have one for every eight. Two actors with one thread each are 1.1 to 1.6 times as fast as one with two threads
(benchmarks/README.md)."""


@dataclass(frozen=True)
class Pool:
    """The actors of one stage.

    Attributes:
        batch_size: clips per batch.
        max_actors: number of actors; the pool has its full size from the start.
        num_cpus: logical CPUs that each actor reserves.
        num_gpus: GPUs that one process takes, with all models that it holds.
        threads: threads that each actor computes with.
        joins_next: whether the stage runs in the processes of the next one, which has an equal pool.
    """

    batch_size: int
    max_actors: int
    num_cpus: float
    num_gpus: float
    threads: int
    joins_next: bool = False

    def one_by_one(self) -> "Pool":
        """Return the same pool with a batch size of one clip."""
        return replace(self, batch_size=1)


@dataclass(frozen=True)
class Measurement:
    """Seconds that one undisturbed actor spends in each stage, per clip and per second of media.

    For an extractor this is the time of the model alone on prepared inputs, which is the upper limit of a run's
    rate.
    """

    seconds_per_clip: Mapping[str, float]
    seconds_per_media_s: Mapping[str, float]


def plan_pools(
    machine: Machine,
    stages: Mapping[str, bool],
    settings: ExtractionSettings,
    measured: Measurement | None = None,
    reads_media: bool = True,
) -> dict[str, Pool]:
    """Plan a pool for each stage. Numbers in ``settings.stages`` take precedence.

    All pretrained models share each GPU: one process per GPU holds all of them (see :func:`processes_of`), so their
    pools are equally large. The remaining cores are divided among the stages on the CPU in proportion to their time
    per clip. Actors on the CPU reserve a fraction of a logical CPU and actors on a GPU none, so that all pools fit
    at once: a pool that waited for CPUs held by other pools would wait for ever.

    Args:
        stages: by name, whether a stage runs a pretrained model.
        measured: times of the stages; without them decoding counts three times as much as all other stages
            together.
        reads_media: whether media are decoded. If not, decoding joins the next stage, so that its own processes need
            not start; but not a stage on a GPU, which it would delay.
    """
    by_hand = settings.stages
    if not reads_media and "decode" not in by_hand:
        pools = plan_pools(
            machine, {n: is_model for n, is_model in stages.items() if n != "decode"}, settings, measured
        )
        following = next(iter(pools.values()))
        if not following.num_gpus:
            return {"decode": replace(following, joins_next=True), **pools}
    on_gpu = [
        name for name, is_model in stages.items() if is_model and wants_gpu(name, settings) and machine.gpus
    ]
    on_cpu = [name for name in stages if name not in on_gpu]
    together = _gpu_pool(machine, [by_hand.get(name, StageSettings()) for name in on_gpu])
    # One core is left for each process on a GPU, which prepares and writes its batches.
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
    """Reduce the reservation of each actor on the CPU if there are more than four actors per core."""
    free = [
        name for name in pools if not pools[name].num_gpus and not by_hand.get(name, StageSettings()).num_cpus
    ]
    actors = sum(pools[name].max_actors for name in free)
    # The share is rounded down, so that the sum of all reservations never exceeds the CPUs.
    share = min(CPUS_OF_AN_ACTOR, math.floor(100 * cpus / max(actors, 1)) / 100)
    return {name: replace(pool, num_cpus=share) if name in free else pool for name, pool in pools.items()}


def wants_gpu(stage: str, settings: ExtractionSettings) -> bool:
    """Return whether a stage that runs a model may use a GPU; ``num_gpus: 0`` in its settings keeps it on the CPU."""
    chosen = settings.stages.get(stage)
    return chosen is None or chosen.num_gpus != 0


def processes_of(pools: Mapping[str, Pool]) -> list[list[str]]:
    """Group the stages by process, in order: stages on the GPU share one, and others have their own unless they join
    the next one.

    Ray packs actors that take fractions of a GPU onto the first GPUs and leaves others idle (ray #28679). Actors
    that take a whole GPU cannot be packed, so each GPU has exactly one process with one copy of each model.
    """
    groups: list[list[str]] = []
    for name, pool in pools.items():
        before = pools[groups[-1][-1]] if groups else None
        if before and (before.joins_next or (pool.num_gpus and before.num_gpus)):
            groups[-1].append(name)
        else:
            groups.append([name])
    return groups


def _gpu_pool(machine: Machine, by_hand: Sequence[StageSettings]) -> Pool:
    """Return the pool of the processes that hold all models, with the strictest of the configured limits."""
    share = max((each.num_gpus for each in by_hand if each.num_gpus), default=1.0)
    # An actor cannot use parts of two GPUs, so the number is rounded down for each GPU.
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
    # For a stage on the CPU this setting only says that it must not use a GPU.
    given.pop("num_gpus", None)
    return replace(pool, **given)
