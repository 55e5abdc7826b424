"""A study: ask for trials, report intermediate scores, tell results. Does not use Ray.

Only the driver accesses the study. A trial ends in one of five ways. *complete*: it has a score. *pruned*: it was
stopped early, which the sampler takes into account. *failed*: it raised an error. *lost*: its process, node or driver
ended. *repeated*: the sampler proposed the same parameters as an earlier trial, so nothing was run. Complete and
pruned trials count as finished.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from emi_ray.recipe.schema import Recipe
from emi_ray.results.studies import Value
from emi_ray.tuning.objective import TrialScore
from emi_ray.tuning.samplers import last_judged
from emi_ray.tuning.settings import RecipeSource, StudySettings

START = "start"
RETRY = "retries"
ERROR = "error"
REPEAT = "repeats"

_LIVE = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
# A start in one of these states need not be queued again; a running one was lost with its driver.
_STANDING = (TrialState.COMPLETE, TrialState.WAITING)
_FRESH_DRAWS = 300


@dataclass(frozen=True)
class Candidate:
    """A trial to run: its number in the study, the values of its parameters, and the recipe to train."""

    number: int
    values: Mapping[str, Value]
    recipe: Recipe


@dataclass(frozen=True)
class Counts:
    """Number of trials of a study by state; ``lost`` trials ended with their process, node or driver."""

    complete: int
    pruned: int
    failed: int
    repeated: int
    lost: int
    running: int

    @property
    def finished(self) -> int:
        return self.complete + self.pruned


class TuningStudy:
    """An Optuna study over the settings of a recipe."""

    def __init__(
        self,
        study: optuna.Study,
        settings: StudySettings,
        source: RecipeSource,
        sampler: BaseSampler,
        pruner: BasePruner,
    ) -> None:
        self.settings = settings
        self.optuna = study
        # The sampler and the pruner are not stored with a study, so each command sets its own.
        self.optuna.sampler, self.optuna.pruner = sampler, pruner
        self._source = source
        self._running: dict[int, Trial] = {}
        self.is_exhausted = False

    def begin(self) -> None:
        """Prepare the study: queue the original settings first, then trials that an earlier driver lost.

        Trials that are still marked as running are marked as failed. Each of them is repeated once; the trial with
        the original settings is repeated until it is complete.
        """
        trials = self.optuna.get_trials(deepcopy=False)
        is_start_due = not self.settings.space.outside(self.settings.recipe) and not any(
            START in trial.user_attrs and trial.state in _STANDING for trial in trials
        )
        # Queued before the lost trials below, so that it is asked for first.
        if is_start_due or not trials:
            self._queue_start()
        for trial in self.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self._lose(trial)

    def ask(self) -> Candidate | None:
        """Return the next trial, with parameters that no finished or running trial has; None if none are left."""
        while True:
            trial = self.optuna.ask()
            values = self.settings.space.suggest(trial)
            earlier = self._earlier(trial)
            # The start runs even if an equal trial exists, because all others are compared with it.
            if earlier is None or START in trial.user_attrs:
                self._running[trial.number] = trial
                return Candidate(trial.number, values, self._recipe(trial, values))
            # Failed trials do not influence the sampler, so a repetition does not count twice.
            trial.set_user_attr(REPEAT, earlier)
            self.optuna.tell(trial, state=TrialState.FAIL)
            fresh = self._fresh_parameters()
            if fresh is None:
                self.is_exhausted = True
                return None
            # The next ask() returns the queued parameters, whatever the sampler would propose.
            self.optuna.enqueue_trial(fresh)

    def report(self, number: int, step: int, value: float) -> bool:
        """Record the score so far of a trial; returns whether it should stop. The original settings never stop."""
        if len(self.settings.directions) > 1:  # Optuna prunes by one objective only
            return False
        trial = self._running[number]
        trial.report(value, step)
        is_judged = step <= last_judged(self.settings.num_steps) and START not in trial.user_attrs
        return is_judged and trial.should_prune()

    def complete(self, number: int, score: TrialScore) -> None:
        """Record the result of a trial; without a finite score it counts as failed."""
        if not math.isfinite(score.value):
            self.fail(number, f"{self.settings.metric} is not a finite number")
            return
        trial = self._running.pop(number)
        for name, value in score.facts.items():
            trial.set_user_attr(name, value)
        costs = {"parameters": float(score.num_parameters), "seconds": score.seconds}
        cost = self.settings.minimise
        self.optuna.tell(trial, [score.value] if cost is None else [score.value, costs[cost]])

    def prune(self, number: int) -> None:
        """Record that a trial was stopped early."""
        self.optuna.tell(self._running.pop(number), state=TrialState.PRUNED)

    def fail(self, number: int, reason: str) -> None:
        """Record that a trial raised an error."""
        trial = self._running.pop(number)
        trial.set_user_attr(ERROR, reason)
        self.optuna.tell(trial, state=TrialState.FAIL)

    def lose(self, number: int) -> None:
        """Record that a trial was lost with its process or node. This is not due to its settings, so it is repeated
        once."""
        self._running.pop(number)
        trial = self.optuna.trials[number]
        self._lose(trial)
        if START in trial.user_attrs:
            self._queue_start()

    def is_running(self, number: int) -> bool:
        return number in self._running

    def give_up_running(self) -> None:
        """Mark all running trials as lost, and queue them for the next driver."""
        for number in list(self._running):
            self._running.pop(number)
            self._lose(self.optuna.trials[number])

    @property
    def counts(self) -> Counts:
        kinds = Counter(kind_of(trial) for trial in self.optuna.get_trials(deepcopy=False))
        return Counts(**{name: kinds[name] for name in Counts.__dataclass_fields__})

    @property
    def name(self) -> str:
        return self.optuna.study_name

    @property
    def sign(self) -> int:
        """1 if a higher score is better, else -1."""
        return 1 if self.settings.directions[0] == "maximize" else -1

    @property
    def front(self) -> list[FrozenTrial]:
        """The Pareto front of a search with two objectives, the best score first; empty with one objective."""
        if len(self.settings.directions) == 1:
            return []
        return sorted(self.optuna.best_trials, key=lambda trial: -self.sign * trial.values[0])

    @property
    def best(self) -> FrozenTrial | None:
        """The complete trial with the best score; a second objective is ignored."""
        complete = self.optuna.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        # Of equal scores, the earlier trial wins.
        return max(complete, key=lambda trial: (self.sign * trial.values[0], -trial.number), default=None)

    @property
    def start(self) -> FrozenTrial | None:
        """The trial with the original settings, or None if it is not complete."""
        complete = self.optuna.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return next((trial for trial in complete if START in trial.user_attrs), None)

    def facts_of(self, number: int) -> dict[str, Any]:
        """Return what is known of a trial: its ``settings``, the name of the ``metric``, the metric's value so far by
        ``steps``, and the final ``scores`` by objective."""
        trial = self.optuna.get_trials(deepcopy=False)[number]
        objectives = [self.settings.metric, *([self.settings.minimise] if self.settings.minimise else [])]
        return {
            "settings": dict(trial.params),
            "metric": self.settings.metric,
            "steps": dict(trial.intermediate_values),
            "scores": dict(zip(objectives, trial.values or [], strict=False)),
        }

    def recipe_of(self, trial: FrozenTrial) -> Recipe:
        """Return the recipe that a trial trained."""
        return self._recipe(trial, trial.params)

    def _recipe(self, trial: Trial | FrozenTrial, values: Mapping[str, Value]) -> Recipe:
        # Setting a value of `training`, even to its original value, would drop the overrides of single stages.
        return self._source.original if START in trial.user_attrs else self._source.load(values)

    def _earlier(self, trial: Trial) -> int | None:
        """Return the number of another finished or running trial with the same parameters, or None."""
        params = trial.params
        trials = self.optuna.get_trials(deepcopy=False, states=_LIVE)
        same = (other.number for other in trials if other.number != trial.number and other.params == params)
        return next(same, None)

    def _fresh_parameters(self) -> dict[str, Any] | None:
        """Draw random parameters that no trial has had, using a separate in-memory study; None if none were found."""
        trials = self.optuna.get_trials(deepcopy=False)
        # Parameters that raised an error would raise it again; those of lost trials may be drawn.
        taken = [trial.params for trial in trials if trial.state in _LIVE or ERROR in trial.user_attrs]
        # The number of trials as seed gives other draws at each call, and the same ones after a restart.
        scratch = optuna.create_study(sampler=RandomSampler(seed=len(trials)))
        for _ in range(_FRESH_DRAWS):
            trial = scratch.ask()
            self.settings.space.suggest(trial)
            if trial.params not in taken:
                return trial.params
        return None

    def _lose(self, trial: FrozenTrial) -> None:
        """Mark a lost trial as failed, and queue its parameters once more. The start is queued by ``begin``."""
        self.optuna.tell(trial.number, state=TrialState.FAIL)
        # Repeated only once, because a trial that kills its process would otherwise do so for ever.
        if START not in trial.user_attrs and RETRY not in trial.user_attrs and trial.params:
            self.optuna.enqueue_trial(trial.params, user_attrs={RETRY: trial.number})

    def _queue_start(self) -> None:
        """Queue the original settings; the sampler chooses the values that are outside of their range."""
        space, recipe = self.settings.space, self.settings.recipe
        marks = {} if space.outside(recipe) else {START: True}
        self.optuna.enqueue_trial(space.own_values(recipe), user_attrs=marks)


def kind_of(trial: FrozenTrial) -> str:
    """Return the state of a trial as the name of a field of :class:`Counts`; empty for a queued trial."""
    names = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.RUNNING: "running"}
    if trial.state != TrialState.FAIL:
        return names.get(trial.state, "")
    if REPEAT in trial.user_attrs:
        return "repeated"
    return "failed" if ERROR in trial.user_attrs else "lost"
