"""The implementation of ``emi-ray tune``: from a recipe and a search space to the best recipe and its scores."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc

from emi_ray.config import WorkspaceConfig
from emi_ray.errors import UserError
from emi_ray.results.studies import STUDY_SETTINGS, StudyResult, read_study_result, study_folder
from emi_ray.runtime import require_shared
from emi_ray.schema import labels_of
from emi_ray.training.plan import RunPlan, plan_run
from emi_ray.training.resources import JobResources
from emi_ray.tuning.confirmation import OnNote, confirm
from emi_ray.tuning.final_evaluation import evaluate_selected
from emi_ray.tuning.ray_search import SharedData, plan_resources, search, share_data
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
)
from emi_ray.tuning.storage import check_storage, driving
from emi_ray.tuning.study import TuningStudy
from emi_ray.tuning.trials_json import write_trials_json
from emi_ray.tuning.tune_adapters import SearchLimits
from emi_ray.wording import plural
from emi_ray.workspace import Workspace

OnChange = Callable[[TuningStudy], None]
"""Called on the driver whenever the study has changed."""

_RECORD_EVERY_S = 15.0
_FEW_CLIPS = 2000


@dataclass(frozen=True)
class TuneOptions:
    """The options of ``emi-ray tune``.

    Attributes:
        space: path of the search space.
        study: name of the study.
        trials: total number of finished (complete or pruned) trials, including those of earlier commands.
        timeout_s: time limit in seconds, after which no new trial starts.
        metric: name of the score to optimise.
        minimise: second objective, or None.
        folds: number of cross-validation folds of the training clips; 1 uses one held-out part. None: as in the
            existing study; for a new one, 1 if ``holdout`` is given, else by the number of training clips.
        holdout: with one fold, share of the training clips that is held out.
        sampler: Optuna sampler.
        scheduler: early-stopping scheduler; by default ``asha``, and ``none`` with two objectives.
        seed: random seed of the sampler.
        concurrent: maximum number of concurrent trials; by default as many as the machine fits.
        gpus_per_trial: fraction of a GPU for each trial; by default from its memory.
        confirm: number of best trials that are retrained with other seeds before the final choice.
        seeds: number of seeds for the comparison with the start on the reporting split; 0 skips it.
        storage: URL of the study's database; by default a journal in the workspace.
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
    """A search whose options have been checked."""

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
    """Check the options of a search before anything is started.

    Raises:
        UserError: the recipe, the search space, the options or the features do not fit together.
    """
    check_name(options.study)
    check_storage(workspace, options.storage)
    if options.minimise is not None and options.scheduler not in (None, "none"):
        raise UserError(
            f"--scheduler {options.scheduler} supports only one objective, and --minimise {options.minimise} adds a "
            "second one: use --scheduler none."
        )
    if options.holdout is not None and (options.folds or 1) > 1:
        raise UserError(
            f"--holdout {options.holdout:g} has no effect with --folds {options.folds}: give only one of them."
        )
    space, recipe = load_space(options.space), source.original
    check_space(source, space)
    check_metric(options.metric, labels_of(workspace.clips().schema))
    # Its key stands for the data: a study must not mix scores on different clips or features.
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
    """Return folds and held-out share: as given, else those of the existing study, else the defaults."""
    if workspace.exists(f"{study_folder(options.study)}/{STUDY_SETTINGS}"):
        earlier = read_settings(workspace, options.study)
        return options.folds or earlier.folds, options.holdout or earlier.holdout
    return options.folds or _default_folds(workspace, options), options.holdout or HOLDOUT


def _default_folds(workspace: Workspace, options: TuneOptions) -> int:
    """Return the default number of folds: 3 if a held-out part of train would be too small for reliable scores."""
    if options.holdout is not None:
        return 1
    num_train = pc.sum(pc.equal(workspace.clips(["split"])["split"], "train")).as_py() or 0
    return 1 if num_train >= _FEW_CLIPS else 3


def tune(plan: TunePlan, on_change: OnChange, on_note: OnNote) -> StudyResult | None:
    """Run or resume a search until the study has enough trials, then select and evaluate the best one.

    Needs a Ray session.

    Args:
        plan: the checked search.
        on_change: called whenever the study has changed.
        on_note: called with messages for the user.

    Returns:
        The comparison of the best recipe with the start; None if ``seeds`` is 0.

    Raises:
        UserError: another process drives the study, or it was started with other settings.
        EmiRayError: many trials failed in a row, or none is complete.
    """
    workspace, settings, options = plan.workspace, plan.settings, plan.options
    require_shared(workspace)
    scheduler: SchedulerName = options.scheduler or ("none" if options.minimise else "asha")
    with driving(workspace, options.study, settings.directions, options.storage) as optuna_study:
        # Checked under the lock, because two commands may create the study at once.
        claim_settings(workspace, optuna_study, settings)
        num_earlier = len(optuna_study.get_trials(deepcopy=False))
        sampler = build_sampler(options.sampler, options.seed, num_earlier)
        pruner = build_scheduler(scheduler, settings.num_steps)
        study = TuningStudy(optuna_study, settings, plan.source, sampler, pruner)
        # Trials of an earlier driver are counted as lost only now, when the lock shows that it has ended.
        study.begin()
        for name in [] if num_earlier else settings.space.outside(settings.recipe):
            on_note(
                f"The recipe's value of {name} is outside of the search space; the first trial draws another."
            )
        on_change(study)
        outcome = _earlier_result(study, plan)
        if study.counts.finished >= options.trials and (outcome or not options.seeds):
            write_trials_json(study, workspace)  # a killed driver may have left an outdated file
            return outcome
        shared = share_data(plan.run, settings)
        resources = plan_resources(settings.recipe, shared, options.concurrent, options.gpus_per_trial)
        _search(study, shared, resources, plan, on_change)
        if study.is_exhausted:
            on_note(
                f"All settings of the search space have been tried after {plural(study.counts.finished, 'trial')}."
            )
        if not options.seeds:
            return None
        return _earlier_result(study, plan) or _select_and_evaluate(study, shared, resources, plan, on_note)


def _search(
    study: TuningStudy, shared: SharedData, resources: JobResources, plan: TunePlan, on_change: OnChange
) -> None:
    options, last_record = plan.options, time.monotonic()

    def changed() -> None:
        nonlocal last_record
        on_change(study)
        # The file is rewritten as a whole, which is too slow for every epoch of every trial.
        if time.monotonic() - last_record > _RECORD_EVERY_S:
            write_trials_json(study, plan.workspace)
            last_record = time.monotonic()

    limits = SearchLimits(options.trials, options.timeout_s)
    try:
        if study.counts.finished < options.trials:
            search(study, shared, plan.workspace, resources, limits, changed)
    finally:
        on_change(study)
        write_trials_json(study, plan.workspace)


def _select_and_evaluate(
    study: TuningStudy, shared: SharedData, resources: JobResources, plan: TunePlan, on_note: OnNote
) -> StudyResult:
    confirmed = confirm(study, shared, plan.workspace, resources, plan.options.confirm, on_note)
    how_many, seeds = plan.options.confirm, plan.reporting_seeds
    return evaluate_selected(study, plan.workspace, plan.config, confirmed, how_many, seeds, on_note)


def _earlier_result(study: TuningStudy, plan: TunePlan) -> StudyResult | None:
    """Return the stored result if it is based on the same trials and seeds, else None."""
    earlier = read_study_result(plan.workspace, study.name) if plan.options.seeds else None
    asked = (study.counts.finished, plan.options.confirm, plan.reporting_seeds)
    return earlier if earlier and (earlier.finished, earlier.confirm, earlier.seeds) == asked else None
