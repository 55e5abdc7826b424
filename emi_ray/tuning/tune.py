"""The whole of ``emi-ray tune``: from a recipe and a space to the best recipe, judged."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc

from emi_ray.config import WorkspaceConfig
from emi_ray.errors import UserError
from emi_ray.runtime import require_shared
from emi_ray.schema import labels_of
from emi_ray.training.plan import RunPlan, plan_run
from emi_ray.training.resources import JobResources
from emi_ray.tuning.outcome import OnNote, Outcome, confirm, judge, read_outcome
from emi_ray.tuning.ray_search import SharedData, plan_resources, search, share_data
from emi_ray.tuning.record import write_record
from emi_ray.tuning.samplers import SamplerName, SchedulerName, build_sampler, build_scheduler
from emi_ray.tuning.search_space import load_space
from emi_ray.tuning.settings import (
    HOLDOUT,
    Cost,
    RecipeSource,
    StudySettings,
    check_metric,
    check_name,
    check_space,
    claim_settings,
    read_settings,
    study_folder,
)
from emi_ray.tuning.storage import check_storage, driving
from emi_ray.tuning.study import TuningStudy
from emi_ray.tuning.tune_adapters import SearchLimits
from emi_ray.workspace import Workspace

OnChange = Callable[[TuningStudy], None]
"""Called on the driver whenever something of the study has changed."""

_RECORD_EVERY_S = 15.0
_FEW_CLIPS = 2000


@dataclass(frozen=True)
class TuneOptions:
    """What ``emi-ray tune`` is asked for.

    Attributes:
        trials: finished ones (complete or pruned) in all, those of earlier commands included.
        timeout_s: after so many seconds no new trial starts.
        folds: of the recipe's training clips; 1: one part is held out. None: those that the study has; 1 where
            ``holdout`` is given; else by the number of train clips.
        scheduler: by default ``asha``; ``none`` with two objectives.
        concurrent: trials at once; by default as many as fit.
        confirm: how many of the best trials are trained again under further seeds before one is chosen.
        seeds: how many seeds judge the choice on the reporting split; 0: none, and nothing is judged.
        storage: URL of a database that holds the study; by default a journal in the workspace.
    """

    space: Path
    study: str
    trials: int
    timeout_s: float | None = None
    metric: str = "val_pearson"
    minimise: Cost | None = None
    folds: int | None = None
    holdout: float | None = None
    sampler: SamplerName = "tpe"
    scheduler: SchedulerName | None = None
    seed: int = 0
    concurrent: int | None = None
    gpus_per_trial: float | None = None
    confirm: int = 3
    seeds: int = 3
    storage: str | None = None


@dataclass(frozen=True)
class TunePlan:
    """A search that has been checked and can begin."""

    workspace: Workspace
    config: WorkspaceConfig
    source: RecipeSource
    options: TuneOptions
    settings: StudySettings
    run: RunPlan

    @property
    def reporting_seeds(self) -> tuple[int, ...]:
        first = self.settings.recipe.training.seed
        return tuple(first + index for index in range(self.options.seeds))


def plan_tuning(
    workspace: Workspace, config: WorkspaceConfig, source: RecipeSource, options: TuneOptions
) -> TunePlan:
    """Check everything that can be checked before anything is started.

    Raises:
        UserError: the recipe, the space, the options or the features do not go together.
    """
    check_name(options.study)
    check_storage(workspace, options.storage)
    if options.minimise is not None and options.scheduler not in (None, "none"):
        raise UserError(
            f"--scheduler {options.scheduler} judges trials by one score, and --minimise {options.minimise} "
            "adds another: use --scheduler none."
        )
    if options.holdout is not None and (options.folds or 1) > 1:
        raise UserError(f"--holdout {options.holdout:g} is of no use with --folds {options.folds}: give one.")
    space, recipe = load_space(options.space), source.own
    check_space(source, space)
    check_metric(options.metric, labels_of(workspace.clips().schema))
    run = plan_run(workspace, recipe, config, recipe.training.seed)
    folds, holdout = _tuning_split(workspace, options)
    settings = StudySettings(
        recipe=recipe,
        space=space,
        metric=options.metric,
        minimise=options.minimise,
        folds=folds,
        holdout=holdout,
        data_key=run.key,
    )
    return TunePlan(workspace, config, source, options, settings, run)


def _tuning_split(workspace: Workspace, options: TuneOptions) -> tuple[int, float]:
    """Folds and the share that one holds out: as asked; else those of a study that exists; else the defaults."""
    if workspace.exists(f"{study_folder(options.study)}/study.json"):
        earlier = read_settings(workspace, options.study)
        return options.folds or earlier.folds, options.holdout or earlier.holdout
    return options.folds or _default_folds(workspace, options), options.holdout or HOLDOUT


def _default_folds(workspace: Workspace, options: TuneOptions) -> int:
    """Three where a part held out of train would be so small that its scores are mostly luck."""
    if options.holdout is not None:
        return 1
    num_train = pc.sum(pc.equal(workspace.clips(["split"])["split"], "train")).as_py() or 0
    return 1 if num_train >= _FEW_CLIPS else 3


def tune(plan: TunePlan, on_change: OnChange, on_note: OnNote) -> Outcome | None:
    """Search, or go on searching, until the study has its trials; then choose and judge. A Ray session must be up.

    Returns:
        How the best recipe stands against the one that the search started from; None without ``seeds``.

    Raises:
        UserError: another process drives the study, or it is about something else.
        EmiRayError: trial after trial fails, or none is complete.
    """
    workspace, settings, options = plan.workspace, plan.settings, plan.options
    require_shared(workspace)
    scheduler: SchedulerName = options.scheduler or ("none" if options.minimise else "asha")
    with driving(workspace, options.study, settings.directions, options.storage) as held:
        claim_settings(workspace, held, settings)
        num_earlier = len(held.get_trials(deepcopy=False))
        sampler = build_sampler(options.sampler, options.seed, num_earlier)
        pruner = build_scheduler(scheduler, settings.num_steps)
        study = TuningStudy(held, settings, plan.source, sampler, pruner)
        study.begin()
        for name in [] if num_earlier else settings.space.outside(settings.recipe):
            on_note(f"The recipe's own {name} lies outside the space: the first trial draws one instead.")
        on_change(study)
        outcome = _earlier_outcome(study, plan)
        if study.counts.finished >= options.trials and (outcome or not options.seeds):
            write_record(study, workspace)  # a driver that was killed may have left an older one
            return outcome
        shared = share_data(plan.run, settings)
        resources = plan_resources(settings.recipe, shared, options.concurrent, options.gpus_per_trial)
        _search(study, shared, resources, plan, on_change)
        if study.is_exhausted:
            on_note(f"the space has no settings left after {study.counts.finished} trials")
        if not options.seeds:
            return None
        return _earlier_outcome(study, plan) or _judge(study, shared, resources, plan, on_note)


def _search(
    study: TuningStudy, shared: SharedData, resources: JobResources, plan: TunePlan, on_change: OnChange
) -> None:
    options, last_record = plan.options, time.monotonic()

    def changed() -> None:
        nonlocal last_record
        on_change(study)
        if time.monotonic() - last_record > _RECORD_EVERY_S:
            write_record(study, plan.workspace)
            last_record = time.monotonic()

    limits = SearchLimits(options.trials, options.timeout_s)
    try:
        if study.counts.finished < options.trials:
            search(study, shared, plan.workspace, resources, limits, changed)
    finally:
        on_change(study)
        write_record(study, plan.workspace)


def _judge(
    study: TuningStudy, shared: SharedData, resources: JobResources, plan: TunePlan, on_note: OnNote
) -> Outcome:
    confirmed = confirm(study, shared, plan.workspace, resources, plan.options.confirm, on_note)
    how_many, seeds = plan.options.confirm, plan.reporting_seeds
    return judge(study, plan.workspace, plan.config, confirmed, how_many, seeds, on_note)


def _earlier_outcome(study: TuningStudy, plan: TunePlan) -> Outcome | None:
    """What was judged before, if it was over the same trials and seeds."""
    earlier = read_outcome(plan.workspace, study.name) if plan.options.seeds else None
    asked = (study.counts.finished, plan.options.confirm, plan.reporting_seeds)
    return earlier if earlier and (earlier.finished, earlier.confirm, earlier.seeds) == asked else None
