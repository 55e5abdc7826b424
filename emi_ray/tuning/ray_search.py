"""Ray Tune around a study: it runs what the study asks for, many trials at once, in processes that it reuses.

Optuna owns the search: Tune's searcher asks the study, its scheduler reports to it and obeys it. So nothing is
lost with the driver, and a search goes on by starting a new ``Tuner`` on the same study.

The features lie in Ray's object store, once a node, and every trial maps them from there.
"""

import logging
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray import cloudpickle, tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from emi_ray.errors import EmiRayError
from emi_ray.recipe import Recipe
from emi_ray.schema import Modality
from emi_ray.training.encoder_cache import WorkspaceEncoderCache
from emi_ray.training.run import RunPlan
from emi_ray.training.stages import Hooks, train_recipe
from emi_ray.tuning.objective import score_recipe
from emi_ray.tuning.resources import TrialResources, feature_bytes, size_trials, smallest_gpu_bytes
from emi_ray.tuning.settings import StudySettings
from emi_ray.tuning.study import TuningStudy
from emi_ray.tuning.tuning_data import read_tuning_data
from emi_ray.workspace import Workspace

OnChange = Callable[[], None]
"""Called on the driver whenever something of the study has changed."""

_FAILURES_IN_A_ROW = 10
_LONGEST_REASON = 300
_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the terminal is ours
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # the study is the memory
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "20",
}


@dataclass(frozen=True)
class SharedData:
    """Tuning data in the object store: a reference, and how large the features are."""

    reference: Any
    num_bytes: int


@dataclass(frozen=True)
class SearchLimits:
    """When to stop: at so many finished trials in all, or no new trial after so many seconds."""

    num_trials: int
    timeout_s: float | None = None


@dataclass(frozen=True)
class _Job:
    """What every trial is told."""

    data: Any
    workspace: Workspace
    metric: str
    threads: int


def share_data(plan: RunPlan, settings: StudySettings) -> SharedData:
    """Read the tuning data in a worker, so that the driver never holds it.

    Raises:
        UserError: the corpus or the features do not allow a tuning split.
    """
    reader: Any = ray.remote(num_cpus=0.1, max_retries=0)(_read)
    reference, size = reader.options(num_returns=2).remote(plan, settings)
    return SharedData(reference, results_of(size))


def results_of(references: Any) -> Any:
    """What remote functions return.

    Raises:
        EmiRayError: as one of them raised it, or saying how one broke down.
    """
    try:
        return ray.get(references)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, EmiRayError):
            raise error.cause from None
        raise EmiRayError(f"A worker broke down: {type(error.cause).__name__}: {error.cause}") from error


def plan_resources(shared: SharedData, concurrent: int | None, gpus: float | None) -> TrialResources:
    """How many trials run at once over this data, and what each takes."""
    return size_trials(shared.num_bytes, concurrent, gpus, smallest_gpu_bytes())


def search(
    study: TuningStudy,
    shared: SharedData,
    workspace: Workspace,
    resources: TrialResources,
    limits: SearchLimits,
    on_change: OnChange | None = None,
) -> None:
    """Run trials until the study has as many finished ones as it should; a Ray session must be up.

    Args:
        workspace: where stage-1 encoders are kept.

    Raises:
        EmiRayError: trial after trial fails.
    """
    os.environ.update(_ENVIRONMENT)
    for name in ("ray.tune", "ray.train", "ray.tune.execution.tune_controller"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # failures are told by the study
    train_untouched_encoders(study.settings, shared, workspace, resources)
    watcher = _Watcher(study, limits, on_change or (lambda: None))
    job = _Job(shared.reference, workspace, study.settings.metric, resources.threads)
    trainable = tune.with_resources(
        tune.with_parameters(_run_trial, job=job), tune.PlacementGroupFactory([resources.request])
    )
    with tempfile.TemporaryDirectory(prefix="emi-ray-tune-") as scratch:
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=_StudySearcher(watcher),
                scheduler=_StudyScheduler(watcher),
                num_samples=-1,
                max_concurrent_trials=resources.concurrent,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(storage_path=scratch, verbose=0, callbacks=[_Failures(watcher)]),
        )
        try:
            tuner.fit()
        finally:
            study.give_up_running()
    if watcher.failures_in_a_row >= _FAILURES_IN_A_ROW:
        raise EmiRayError(
            f"{watcher.failures_in_a_row} trials failed in a row; the last: {watcher.last_failure}"
        )


def train_untouched_encoders(
    settings: StudySettings, shared: SharedData, workspace: Workspace, resources: TrialResources
) -> None:
    """Train, side by side, the stage-1 encoders that no trial will train otherwise, for all to reuse."""
    train = ray.remote(max_retries=0)(_train_encoder).options(**resources.options)
    job = _Job(shared.reference, workspace, settings.metric, resources.threads)
    results_of(
        [
            train.remote(job, settings.recipe, modality, fold)
            for modality in untouched_encoders(settings)
            for fold in range(settings.folds)
        ]
    )


def untouched_encoders(settings: StudySettings) -> list[Modality]:
    """Modalities whose first stage is the same in all trials."""
    recipe, names = settings.recipe, list(settings.space.parameters)
    everywhere = ("training.", "objective.", "encoders.*.", "stages", "split")
    if recipe.fusion is None or recipe.stages == "joint" or any(n.startswith(everywhere) for n in names):
        return []
    return [m for m in recipe.modalities if not any(n.startswith(f"encoders.{m}.") for n in names)]


class _Watcher:
    """Between Tune, which runs trials, and the study, which knows them by number."""

    def __init__(self, study: TuningStudy, limits: SearchLimits, on_change: OnChange) -> None:
        self.study = study
        self.failures_in_a_row = 0
        self.last_failure = ""
        self._limits = limits
        self._on_change = on_change
        self._started = time.monotonic()
        self._is_exhausted = False

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """Tune pickles what it is given, to restore a search from; ours goes on from the study instead."""
        return object, ()

    def next_trial(self) -> dict[str, Any] | str | None:
        """The configuration of a trial, None to wait, or that all is done."""
        counts = self.study.counts
        if self._is_over(counts.finished):
            return Searcher.FINISHED
        if counts.finished + counts.running >= self._limits.num_trials:
            return None  # one of those that run might fail and need another in its place
        candidate = self.study.ask()
        if candidate is None:
            self._is_exhausted = True
            return Searcher.FINISHED
        self._on_change()
        return {"number": candidate.number, "recipe": candidate.recipe.model_dump(mode="json")}

    def note(self, number: int, result: Mapping[str, Any]) -> bool:
        """Take in what a trial reports; True if it should stop. Tune repeats the last report of a trial."""
        if not self.study.is_running(number):
            return False
        if "score" in result:
            self.study.complete(number, result["score"])
            self.failures_in_a_row = 0
        elif self.study.report(number, result["step"], result["value"]):
            self.study.prune(number)
            self.failures_in_a_row = 0
            self._on_change()
            return True
        self._on_change()
        return False

    def fail(self, number: int, reason: str) -> None:
        if self.study.is_running(number):
            self.study.fail(number, reason)
            self.failures_in_a_row += 1
            self.last_failure = f"trial {number}: {reason}"
            self._on_change()

    def _is_over(self, finished: int) -> bool:
        seconds = time.monotonic() - self._started
        return (
            finished >= self._limits.num_trials
            or self._is_exhausted
            or self.failures_in_a_row >= _FAILURES_IN_A_ROW
            or (self._limits.timeout_s is not None and seconds > self._limits.timeout_s)
        )


class _StudySearcher(Searcher):
    """Lets Tune take its trials from the study."""

    def __init__(self, watcher: _Watcher) -> None:
        super().__init__(metric="value", mode="max")
        self._watcher = watcher

    def suggest(self, trial_id: str) -> Any:
        return self._watcher.next_trial()

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """The scheduler tells the study; a failure is told with its reason by the callback."""

    def save(self, checkpoint_path: str) -> None:
        """There is nothing to save: the study is durable."""

    def restore(self, checkpoint_path: str) -> None:
        """A search goes on with a new searcher."""


class _StudyScheduler(FIFOScheduler):
    """Lets the study decide which trials stop early."""

    def __init__(self, watcher: _Watcher) -> None:
        super().__init__()
        self._watcher = watcher

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict) -> str:
        return self.STOP if self._watcher.note(trial.config["number"], result) else self.CONTINUE


class _Failures(tune.Callback):
    """Tells the study why a trial broke down."""

    def __init__(self, watcher: _Watcher) -> None:
        self._watcher = watcher

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._watcher.fail(trial.config["number"], _reason(trial))


def _reason(trial: Trial) -> str:
    """Why a trial broke down, in a line. Tune has its exception in a file that it has not moved to storage yet."""
    path = Path(trial.pickled_error_file)
    error = cloudpickle.loads(path.read_bytes()) if path.is_file() else None
    cause = getattr(error, "cause", None) or error
    lines = str(cause).strip().splitlines() or ["no message"]
    return f"{type(cause).__name__}: {lines[0]}"[:_LONGEST_REASON] if cause is not None else "unknown"


def _run_trial(config: dict[str, Any], job: _Job) -> None:
    """What a trial's process runs."""
    torch.set_num_threads(job.threads)
    score = score_recipe(
        Recipe.model_validate(config["recipe"]),
        ray.get(job.data),
        job.metric,
        device=_device(),
        encoder_cache=WorkspaceEncoderCache(job.workspace),
        on_step=lambda step, value: tune.report({"step": step, "value": value}),
    )
    tune.report({"score": score, "value": score.value})


def _train_encoder(job: _Job, recipe: Recipe, modality: Modality, fold: int) -> None:
    torch.set_num_threads(job.threads)
    data = ray.get(job.data)
    alone = recipe.model_copy(update={"encoders": {modality: recipe.encoders[modality]}, "fusion": None})
    hooks = Hooks(encoder_cache=WorkspaceEncoderCache(job.workspace))
    train_recipe(
        alone, data.clips, data.folds[fold], seed=recipe.training.seed, device=_device(), hooks=hooks
    )


def _read(plan: RunPlan, settings: StudySettings) -> Any:
    data = read_tuning_data(plan, settings)
    return data, feature_bytes(data)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
