"""Running the trials of a study with Ray Tune, many at once, in processes that are reused.

Optuna owns the search: Tune's searcher asks the study for trials, and Tune's scheduler reports scores to the study
and follows its decisions. All state is in the study, so nothing is lost with the driver, and a search is resumed by
starting a new ``Tuner`` on the same study.

The features are in Ray's object store, once on each node, and all trials of a node share this memory.
"""

import logging
import os
import tempfile
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune

from emi_ray.errors import EmiRayError
from emi_ray.recipe.schema import Recipe
from emi_ray.runtime import machine, results_of
from emi_ray.runtime.ray_errors import last_words
from emi_ray.schema import EncoderName
from emi_ray.training.plan import RunPlan
from emi_ray.training.resources import JobResources, size_jobs, smallest_gpu_bytes
from emi_ray.training.stages.encoder_cache import WorkspaceEncoderCache
from emi_ray.training.stages.runner import Hooks
from emi_ray.training.stages.train_recipe import train_recipe
from emi_ray.tuning.objective import score_recipe
from emi_ray.tuning.settings import StudySettings
from emi_ray.tuning.study import TuningStudy
from emi_ray.tuning.tune_adapters import (
    Failures,
    OnChange,
    SearchLimits,
    StudyScheduler,
    StudySearcher,
    Watcher,
)
from emi_ray.tuning.tuning_data import read_tuning_data
from emi_ray.workspace import Workspace

_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # we show the progress ourselves
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # the study keeps the state, not Tune
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "20",
}


MAX_RETRIES = 5
"""How often Ray repeats a task that reads features, trains an encoder or retrains a trial, when its node dies."""


@dataclass(frozen=True)
class SharedData:
    """Tuning data in Ray's object store: a reference, and the size of the features in bytes."""

    reference: Any
    num_bytes: int


@dataclass(frozen=True)
class _Job:
    """Arguments that all trials share."""

    data: Any
    encoder_cache: WorkspaceEncoderCache
    metric: str
    resources: JobResources


def share_data(plan: RunPlan, settings: StudySettings) -> SharedData:
    """Read the tuning data in a Ray task, so that they are never in the driver's memory.

    Raises:
        UserError: the corpus or the features do not allow a tuning split.
    """
    # With retries, Ray repeats the task if the node with the data is lost; trials that need the data wait.
    reader: Any = ray.remote(num_cpus=0.1, max_retries=MAX_RETRIES)(_read)
    reference, size = reader.options(num_returns=2).remote(plan, settings)
    return SharedData(reference, results_of(size))


def plan_resources(
    recipe: Recipe, shared: SharedData, concurrent: int | None, gpus: float | None
) -> JobResources:
    """Compute how many trials run at once and the resources of each.

    By default, a trial that fine-tunes a backbone gets a whole device.
    """
    if recipe.finetuned and concurrent is None and gpus is None:
        # A backbone fills a GPU; on CPUs, torch uses all cores for one trial.
        if machine().gpus:
            gpus = 1.0
        else:
            concurrent = 1
    return size_jobs(shared.num_bytes, concurrent, gpus, smallest_gpu_bytes())


def search(
    study: TuningStudy,
    shared: SharedData,
    workspace: Workspace,
    resources: JobResources,
    limits: SearchLimits,
    on_change: OnChange | None = None,
) -> None:
    """Run trials until the study has enough finished ones. Needs a Ray session.

    Args:
        study: the study, which only this process may drive.
        shared: the tuning data.
        workspace: stores stage-1 encoders.
        resources: concurrency and the resources of each trial.
        limits: when to stop.
        on_change: called whenever the study has changed.

    Raises:
        EmiRayError: many trials failed in a row, or Ray Tune failed.
    """
    # Tune takes these options only from the environment.
    os.environ.update(_ENVIRONMENT)
    for name in ("ray.tune", "ray.train", "ray.tune.execution.tune_controller"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # the study reports failures
    # Before the search, or the first trials would each train the same encoders.
    train_untouched_encoders(study.settings, shared, workspace, resources)
    watcher = Watcher(study, limits, on_change or (lambda: None))
    cache = encoder_cache(study.settings, workspace)
    job = _Job(shared.reference, cache, study.settings.metric, resources)
    trainable = tune.with_resources(
        tune.with_parameters(_run_trial, job=job), tune.PlacementGroupFactory([resources.request])
    )
    # Tune insists on writing a state, which nobody reads: the study has everything.
    with tempfile.TemporaryDirectory(prefix="emi-ray-tune-") as scratch:
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=StudySearcher(watcher),
                scheduler=StudyScheduler(watcher),
                # Without end: the searcher says when the search is over.
                num_samples=-1,
                max_concurrent_trials=resources.concurrent,
                # A new process would import torch again for every trial.
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(storage_path=scratch, verbose=0, callbacks=[Failures(watcher)]),
        )
        try:
            tuner.fit()
        except (ray.exceptions.RayError, RuntimeError) as error:  # Tune's own, of a process killed for memory
            raise EmiRayError(
                f"Ray gave up the search: {last_words(str(error))}. The study is kept; repeat the command."
            ) from error
        finally:
            # Also after Ctrl-C, so that the next command repeats these trials.
            study.give_up_running()
    watcher.raise_if_hopeless()


def train_untouched_encoders(
    settings: StudySettings, shared: SharedData, workspace: Workspace, resources: JobResources
) -> None:
    """Train the stage-1 encoders that are the same in all trials in parallel, so that trials can reuse them."""
    train = ray.remote(max_retries=MAX_RETRIES)(_train_encoder).options(**resources.options)
    job = _Job(shared.reference, encoder_cache(settings, workspace), settings.metric, resources)
    results_of(
        [
            train.remote(job, settings.recipe, modality, fold)
            for modality in untouched_encoders(settings)
            for fold in range(settings.folds)
        ]
    )


def untouched_encoders(settings: StudySettings) -> list[EncoderName]:
    """Return the encoders whose stage 1 is the same in all trials."""
    recipe, names = settings.recipe, list(settings.space.parameters)
    everywhere = ("training.", "objective.", "encoders.*.", "stages")
    has_reused_stages = (
        recipe.fusion is not None and recipe.fusion.type != "late" and recipe.stages != "joint"
    )
    if not has_reused_stages or any(name.startswith(everywhere) for name in names):
        return []
    return [m for m in recipe.streams if not any(n.startswith(f"encoders.{m}.") for n in names)]


def encoder_cache(settings: StudySettings, workspace: Workspace) -> WorkspaceEncoderCache:
    """Return a cache of the encoders that other trials may reuse.

    A fine-tuned backbone that only one trial can use is not stored, because backbones would fill the disk.
    """
    passing = settings.recipe.finetuned - {*untouched_encoders(settings)}
    return WorkspaceEncoderCache(workspace, passing=passing)


def _run_trial(config: dict[str, Any], job: _Job) -> None:
    """Train and score one trial; runs in the trial's process."""
    score = score_recipe(
        Recipe.model_validate(config["recipe"]),
        ray.get(job.data),
        job.metric,
        device=job.resources.take_up(),
        encoder_cache=job.encoder_cache,
        on_step=lambda step, value: tune.report({"step": step, "value": value}),
    )
    tune.report({"score": score, "value": score.value})


def _train_encoder(job: _Job, recipe: Recipe, modality: EncoderName, fold: int) -> None:
    data, device = ray.get(job.data), job.resources.take_up()
    # Without the fusion, the recipe has one stage, which stores the encoder in the cache.
    alone = recipe.model_copy(update={"encoders": {modality: recipe.encoders[modality]}, "fusion": None})
    hooks = Hooks(encoder_cache=job.encoder_cache)
    train_recipe(alone, data.clips, data.folds[fold], seed=recipe.training.seed, device=device, hooks=hooks)


def _read(plan: RunPlan, settings: StudySettings) -> Any:
    data = read_tuning_data(plan, settings)
    return data, data.clips.num_bytes
