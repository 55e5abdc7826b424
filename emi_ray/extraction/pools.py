"""Choose the number and size of the actors of each stage."""

import math
from collections.abc import Collection, Mapping, Sequence
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

BATCHES_AT_ONCE = 8
"""Batches in a process on a GPU, each in a thread. The GPU computes two; others are prepared, or hashed and written,
which takes three times as long as an H100 needs for a batch of sound."""

MODEL_ACTORS = 4
THREADS_OF_A_MODEL = 8
"""On a CPU a model has one actor per core, but at most four, since each holds the weights; machines with more than 32
cores have one for every eight. Two actors with one thread each make 1.4 times the texts of one with two threads; for
sound the difference is within its variation (benchmarks/README.md)."""


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

    @property
    def batches_at_once(self) -> int:
        """The number of batches that a process has in progress, each in a thread."""
        return BATCHES_AT_ONCE if self.num_gpus else 1

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
    pools are equally large. The remaining cores are divided among the processes on the CPU in proportion to the
    time per clip of their stages. Actors on the CPU reserve a fraction of a logical CPU and actors on a GPU none, so
    that all pools fit at once: a pool that waited for CPUs held by other pools would wait for ever.

    Args:
        stages: by name, whether a stage runs a pretrained model.
        measured: times of the stages; without them decoding counts three times as much as all other stages
            together.
        reads_media: whether media are decoded.
    """
    by_hand = {name: sizes for name, sizes in settings.stages.items() if sizes != StageSettings()}
    on_gpu = [
        name for name, is_model in stages.items() if is_model and wants_gpu(name, settings) and machine.gpus
    ]
    together = _gpu_pool(machine, [by_hand.get(name, StageSettings()) for name in on_gpu])
    pools = {name: replace(together, batch_size=_gpu_batch_size(name, by_hand)) for name in on_gpu}
    # One core is left for each process on a GPU, which prepares and writes its batches.
    cores = max(machine.cpus - (together.max_actors if on_gpu else 0), 1)
    groups = _sharing(stages, on_gpu, by_hand, reads_media)
    # A stage that was not measured, because none of the measured clips had work for it, rarely has any.
    num_on_cpu = len(stages) - len(on_gpu)
    seconds = measured.seconds_per_clip if measured else _default_weights(stages, num_on_cpu)
    weights = [sum(seconds.get(name, 0.0) for name in names) for names in groups]
    for names, weight in zip(groups, weights, strict=True):
        share = cores * weight / sum(weights)
        pool = _model_pool(names, cores) if any(stages[name] for name in names) else _cpu_pool(names, share)
        pool = _by_hand(pool, by_hand.get(names[-1], StageSettings()))
        for name in names:
            pools[name] = replace(pool, joins_next=name != names[-1])
    return _reserving_no_more({name: pools[name] for name in stages}, machine.cpus, by_hand)


def _sharing(
    stages: Mapping[str, bool],
    on_gpu: Collection[str],
    by_hand: Collection[str],
    reads_media: bool,
) -> list[list[str]]:
    """Group the stages on the CPU by process, in order.

    Adjacent stages without a model share processes: on two cores the built-in extractors then take .8 of the time,
    since fewer processes start, pictures are not passed on, and no process waits for another
    (``benchmarks/extraction.py``). A model has processes of its own, because each holds a copy of its weights. So has
    a stage whose numbers are set by hand. If no media are decoded, decoding joins either of them.
    """
    groups: list[list[str]] = []
    before = None
    for name, is_model in stages.items():
        if name in on_gpu:
            before = None
            continue
        has_no_work = before == "decode" and not reads_media and before not in by_hand
        is_light = not is_model and before and not stages[before] and not {before, name} & set(by_hand)
        if has_no_work or is_light:
            groups[-1].append(name)
        else:
            groups.append([name])
        before = name
    return groups


def _reserving_no_more(
    pools: dict[str, Pool], cpus: int, by_hand: Mapping[str, StageSettings]
) -> dict[str, Pool]:
    """Reduce the reservation of each actor on the CPU if there are more than four actors per core."""
    free = [
        name for name in pools if not pools[name].num_gpus and not by_hand.get(name, StageSettings()).num_cpus
    ]
    actors = sum(pools[name].max_actors for name in free if not pools[name].joins_next)
    # The share is rounded down, so that the sum of all reservations never exceeds the CPUs.
    share = min(CPUS_OF_AN_ACTOR, math.floor(100 * cpus / max(actors, 1)) / 100)
    return {name: replace(pool, num_cpus=share) if name in free else pool for name, pool in pools.items()}


def wants_gpu(stage: str, settings: ExtractionSettings) -> bool:
    """Return whether a stage that runs a model may use a GPU; ``num_gpus: 0`` in its settings keeps it on the CPU."""
    chosen = settings.stages.get(stage)
    return chosen is None or chosen.num_gpus != 0


def processes_of(pools: Mapping[str, Pool]) -> list[list[str]]:
    """Group the stages by the processes that run them, in order.

    Stages on the GPU share processes, and a stage that joins the next one runs in the processes of that one.

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


def _cpu_pool(stages: Sequence[str], cores: float) -> Pool:
    return Pool(_batch_size(stages), max(1, math.floor(cores + 0.5)), CPUS_OF_AN_ACTOR, 0.0, threads=1)


def _model_pool(stages: Sequence[str], cores: int) -> Pool:
    """Return the pool of a model on the CPU."""
    actors = max(min(cores, MODEL_ACTORS), cores // THREADS_OF_A_MODEL)
    return Pool(_batch_size(stages), actors, CPUS_OF_AN_ACTOR, 0.0, max(cores // actors, 1))


def _batch_size(stages: Sequence[str]) -> int:
    """Return the clips per batch of stages that share processes on the CPU: the smallest size of the extractors."""
    return min((BATCH_SIZE.get(name, 8) for name in stages if name != "decode"), default=8)


def _gpu_batch_size(stage: str, by_hand: Mapping[str, StageSettings]) -> int:
    return by_hand.get(stage, StageSettings()).batch_size or GPU_BATCH_SIZE.get(stage, 32)


def _default_weights(stages: Collection[str], num_on_cpu: int) -> dict[str, float]:
    decoding = 3 * max(num_on_cpu - 1.0, 1.0)
    return {name: decoding if name == "decode" else 1.0 for name in stages}


def _by_hand(pool: Pool, wanted: StageSettings) -> Pool:
    given = {key: value for key, value in wanted.model_dump().items() if value is not None}
    # For a stage on the CPU this setting only says that it must not use a GPU.
    given.pop("num_gpus", None)
    return replace(pool, **given)
