"""How many actors of what size each stage gets."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from emi_ray.config import ExtractionSettings, StageSettings
from emi_ray.runtime import Machine

BATCH_SIZE = {"text": 128}
GPU_BATCH_SIZE = {"text": 512}
"""Clips a batch on a CPU and on a GPU, where it is not 8 and 32. An extractor sorts the clips of a batch by length
before it forms the batches of its model. Text is tiny: a large window costs nothing and leaves little padding."""

MODEL_ACTORS = 4
THREADS_OF_A_MODEL = 8
"""On a CPU a model has an actor for each core, at most four, since each holds the weights; beyond these, an actor for
every eight cores. Two actors of one thread do 1.1 to 1.6 times the work of one of two (benchmarks/README.md)."""


@dataclass(frozen=True)
class Pool:
    """One stage's actors: each takes ``batch_size`` clips at a time and computes on ``threads`` threads."""

    batch_size: int
    min_actors: int
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

    Every GPU is shared by one actor of each stage that runs a pretrained model. Stages on the CPU share the
    cores by the time that they take. Actors on the CPU reserve a fraction of a logical CPU each, so that all
    pools always fit at once: a pool that waits for CPUs which the others hold would wait for ever.

    Args:
        stages: by name, whether a stage runs a pretrained model.
        measured: by default decoding weighs three times as much as all else.
    """
    on_gpu = [name for name, is_model in stages.items() if is_model and machine.gpus]
    on_cpu = [name for name in stages if name not in on_gpu]
    seconds = measured.seconds_per_clip if measured else {}
    weights = {name: seconds.get(name, 0.0) or _default_weight(name, len(on_cpu)) for name in on_cpu}
    share = machine.cpus / sum(weights.values()) if weights else 0.0
    pools = {}
    for name, is_model in stages.items():
        if name in on_gpu:
            pools[name] = Pool(GPU_BATCH_SIZE.get(name, 32), 1, machine.gpus, 0.25, 1 / len(on_gpu), 1)
        elif is_model:
            actors = max(min(machine.cpus, MODEL_ACTORS), machine.cpus // THREADS_OF_A_MODEL)
            pools[name] = Pool(_batch_size(name), actors, actors, 0.25, 0.0, machine.cpus // actors)
        else:
            actors = max(1, math.floor(weights[name] * share + 0.5))
            pools[name] = Pool(_batch_size(name), actors, actors, 0.25, 0.0, 1)
    return {name: _by_hand(pool, settings.stages.get(name)) for name, pool in pools.items()}


def _batch_size(stage: str) -> int:
    return BATCH_SIZE.get(stage, 8)


def _default_weight(stage: str, num_stages: int) -> float:
    return 3 * max(num_stages - 1.0, 1.0) if stage == "decode" else 1.0


def _by_hand(pool: Pool, wanted: StageSettings | None) -> Pool:
    given = {
        key: value for key, value in (wanted or StageSettings()).model_dump().items() if value is not None
    }
    pool = replace(pool, **given)
    if "min_actors" not in given:
        pool = replace(pool, min_actors=min(pool.min_actors, pool.max_actors))
    return replace(pool, max_actors=max(pool.min_actors, pool.max_actors))
