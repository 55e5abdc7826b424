"""Who proposes the next trial, and who stops a hopeless one: Optuna's, by name."""

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
    # Groups: parameters that apply together are modelled together. The liar keeps parallel trials apart.
    "tpe": lambda seed: TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True),
    "gp": lambda seed: GPSampler(seed=seed),
    "random": lambda seed: RandomSampler(seed=seed),
    "nsga2": lambda seed: NSGAIISampler(seed=seed, population_size=20),
}

SCHEDULERS: dict[SchedulerName, Callable[[int], BasePruner]] = {
    # Rungs at a ninth and a third of the steps (see `last_judged`): a third of the trials goes on from each.
    "asha": lambda num_steps: SuccessiveHalvingPruner(
        min_resource=_first_rung(num_steps), reduction_factor=_REDUCTION
    ),
    "median": lambda num_steps: MedianPruner(n_startup_trials=5, n_warmup_steps=_first_rung(num_steps)),
    "none": lambda num_steps: NopPruner(),
}


def _first_rung(num_steps: int) -> int:
    """Steps before which nothing is judged; the first few say little."""
    return max(min(_FEWEST_STEPS, num_steps), num_steps // _REDUCTION ** (_NUM_RUNGS - 1))


def last_judged(num_steps: int) -> int:
    """The last step at which a trial may be stopped: later, stopping would save less than it loses."""
    return max(_first_rung(num_steps), num_steps // _REDUCTION)


def build_sampler(name: SamplerName, seed: int, num_earlier: int) -> BaseSampler:
    """A sampler that does not repeat its own draws when a study is continued.

    Args:
        num_earlier: trials that the study already has.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return SAMPLERS[name](int(np.random.SeedSequence([seed, num_earlier]).generate_state(1)[0]))


def build_scheduler(name: SchedulerName, num_steps: int) -> BasePruner:
    """A rule that stops trials early, for trials of at most ``num_steps`` reports."""
    return SCHEDULERS[name](num_steps)
