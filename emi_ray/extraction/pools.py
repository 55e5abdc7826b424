"""How many actors of what size each stage gets."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from emi_ray.config import ExtractionSettings, StageSettings
from emi_ray.extractors import ExtractorSpec
from emi_ray.runtime import Machine
from emi_ray.schema import Modality


@dataclass(frozen=True)
class Pool:
    """One stage's actors: each takes ``batch_size`` clips at a time and computes on ``threads`` threads."""

    batch_size: int
    min_actors: int
    max_actors: int
    num_cpus: float
    num_gpus: float
    threads: int


BATCH_SIZE = {"decode": 8, "vision": 8, "motion": 8, "audio": 8, "text": 32}
"""Clips a batch, and so a file. Text is tiny: larger batches make fewer files."""


def plan_pools(
    machine: Machine, specs: Mapping[Modality, ExtractorSpec], settings: ExtractionSettings
) -> dict[str, Pool]:
    """A pool for ``decode`` and for each modality; numbers set by hand in ``settings.stages`` win.

    Actors on the CPU reserve a fraction of a logical CPU each, so that all pools always fit at once:
    a pool that waits for CPUs which the others hold would wait for ever.
    """
    on_gpu = [modality for modality, spec in specs.items() if spec.kind.USES_GPU and machine.gpus]
    pools = {"decode": _pool("decode", machine.cpus, 0.0, settings)}
    for modality in specs:
        if modality in on_gpu:
            pools[modality] = _pool(modality, machine.gpus, 1 / len(on_gpu), settings)
        else:
            pools[modality] = _pool(modality, math.ceil(machine.cpus / 4), 0.0, settings)
    return pools


def _pool(stage: str, actors: int, num_gpus: float, settings: ExtractionSettings) -> Pool:
    wanted = settings.stages.get(stage, StageSettings())
    max_actors = wanted.max_actors or max(actors, wanted.min_actors or 1)
    return Pool(
        batch_size=wanted.batch_size or BATCH_SIZE[stage],
        min_actors=wanted.min_actors or max_actors,
        max_actors=max_actors,
        num_cpus=wanted.num_cpus or 0.25,
        num_gpus=num_gpus if wanted.num_gpus is None else wanted.num_gpus,
        threads=1,
    )
