"""The processes of a local session that train on CPUs: they are started early, and give way to those that read."""

import os
from functools import cache
from typing import Any

import ray

from emi_ray.training.resources import JobResources
from emi_ray.training.shared_features import MAX_RETRIES

OWN_PROCESSES = {"env_vars": {"EMI_RAY_TRAINS": "1"}}
"""A runtime environment for training. Ray shares processes only among tasks of one environment; otherwise it would
train in the processes that have read the features, instead of those that have imported torch meanwhile."""

_NICENESS = 5
"""Niceness of trainings: where cores are short, they get a third of the time of a process that reads features."""


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

    _give_way()


@cache
def _give_way() -> None:
    """Lower the priority of this process, once: two of the tasks that import may run in one process.

    Reading comes first: the longest training waits for the largest features, and the shorter ones have time.
    """
    os.nice(_NICENESS)
