"""Optuna's samplers, which propose trials, and pruners, which stop bad trials early, by name."""

import warnings
from collections.abc import Callable
from typing import Literal

import numpy as np
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler

SamplerName = Literal["tpe", "gp", "random", "nsga2"]
SchedulerName = Literal["asha", "median", "none"]

_REDUCTION = 3
_NUM_RUNGS = 3
_FEWEST_STEPS = 3

SAMPLERS: dict[SamplerName, Callable[[int], BaseSampler]] = {
    # group: parameters that apply together are modelled together. constant_liar: running trials count as bad ones, so
    # that parallel trials are not all proposed in the same place.
    "tpe": lambda seed: TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True),
    "gp": lambda seed: GPSampler(seed=seed),
    "random": lambda seed: RandomSampler(seed=seed),
    "nsga2": lambda seed: NSGAIISampler(seed=seed, population_size=20),
}

SCHEDULERS: dict[SchedulerName, Callable[[int], BasePruner]] = {
    # Rungs at a ninth and a third of the steps (see `last_judged`); the best third of the trials passes each rung.
    "asha": lambda num_steps: SuccessiveHalvingPruner(
        min_resource=_first_rung(num_steps), reduction_factor=_REDUCTION
    ),
    "median": lambda num_steps: MedianPruner(n_startup_trials=5, n_warmup_steps=_first_rung(num_steps)),
    "none": lambda num_steps: NopPruner(),
}


def _first_rung(num_steps: int) -> int:
    """Return the first step at which trials are compared; scores of the first few epochs are not informative."""
    return max(min(_FEWEST_STEPS, num_steps), num_steps // _REDUCTION ** (_NUM_RUNGS - 1))


def last_judged(num_steps: int) -> int:
    """Return the last step at which a trial may be stopped: later, stopping saves too little time."""
    return max(_first_rung(num_steps), num_steps // _REDUCTION)


def build_sampler(name: SamplerName, seed: int, num_earlier: int) -> BaseSampler:
    """Build a sampler. When a study is continued, it does not repeat the random draws of earlier commands.

    Args:
        name: name of the sampler.
        seed: random seed.
        num_earlier: number of trials that the study already has; it is mixed into the seed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        # SeedSequence mixes both numbers, so that neighbouring seeds give unrelated draws.
        return SAMPLERS[name](int(np.random.SeedSequence([seed, num_earlier]).generate_state(1)[0]))


def build_scheduler(name: SchedulerName, num_steps: int) -> BasePruner:
    """Build an early-stopping rule for trials with at most ``num_steps`` reports."""
    return SCHEDULERS[name](num_steps)
