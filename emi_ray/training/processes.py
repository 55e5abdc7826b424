"""The processes of a local session that train on CPUs: started early, with a lower priority than reading."""

from typing import Any

import ray

from emi_ray.runtime.priority import lower_priority
from emi_ray.training.resources import JobResources
from emi_ray.training.shared_features import MAX_RETRIES

OWN_PROCESSES = {"env_vars": {"EMI_RAY_TRAINS": "1"}}
"""Runtime environment of the trainings. Ray reuses a process only for tasks of the same environment, so that
trainings run in the processes that have imported torch, not in those that have read the features."""


def start_processes(count: int, resources: JobResources) -> list[Any]:
    """Let the processes that will train import torch, before there is anything to train; returns the tasks.

    Ray starts a task only when its inputs are there, and would otherwise import torch after the reading. The tasks
    that import hold the cores of a training, so that no training starts in another process meanwhile.
    """
    start = ray.remote(max_retries=MAX_RETRIES, runtime_env=OWN_PROCESSES, **resources.options)(
        _import_training
    )
    return [start.remote() for _ in range(count)]


def _import_training() -> None:
    import emi_ray.training.run
    import emi_ray.training.stages.encoder_job  # noqa: F401

    # Reading has priority, because the longest training waits for the largest features. The shorter trainings need
    # not be finished before it.
    lower_priority()
