"""The runs of one command: planning, locking against other commands, and training in parallel or in sequence."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from emi_ray.config import WorkspaceConfig
from emi_ray.errors import EmiRayError, UserError
from emi_ray.events import count, tell
from emi_ray.recipe.schema import Recipe
from emi_ray.training.data.input_hashes import require_labels
from emi_ray.training.inbox import OnProgress
from emi_ray.training.parallel_runs import ParallelRuns
from emi_ray.training.plan import RunPlan, plan_run
from emi_ray.workspace import Workspace

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunRequest:
    """A recipe to train with a seed."""

    recipe: Recipe
    seed: int


@dataclass(frozen=True)
class RunResult:
    """The result of a request: the content of ``metrics.json`` with ``already_finished``, or a problem.

    Examples:
        >>> [result] = emi_ray.train("work", "text", seeds=[1], settings={"training.epochs": 3})
        >>> result.recipe.name, result.metrics["already_finished"], result.problem
        ('text', True, None)
    """

    recipe: Recipe
    seed: int
    metrics: dict[str, Any] | None = None
    problem: EmiRayError | None = None


def train_runs(
    workspace: Workspace,
    requests: Sequence[RunRequest],
    config: WorkspaceConfig,
    *,
    num_workers: int = 1,
    force: bool = False,
    gpus_per_run: float | None = None,
    on_progress: OnProgress = lambda job, scores: None,
    on_plan: Callable[[int, int], None] = lambda runs, at_once: None,
    on_result: Callable[[RunResult], None] = lambda result: None,
    checkpoint_every_s: float = 2.0,
) -> list[RunResult]:
    """Train runs on the features of a workspace. Needs a Ray session.

    An interrupted run is resumed. A run that is finished with the same recipe, seed, features and labels is not
    repeated, unless ``force`` is set. A run that cannot be trained does not stop the others.

    Args:
        workspace: holds the features and receives the runs.
        requests: the runs to train.
        config: settings of the workspace.
        num_workers: with more than one, runs are trained one after the other, and workers share each batch
            (:func:`emi_ray.training.ray_train.train_distributed`).
        force: discard checkpoints and stage-1 encoders of earlier commands and train again.
        gpus_per_run: fraction of a GPU for each run; by default from the size of the features and the GPU's memory.
        on_progress: called after each epoch with the name of the job and its row of ``history.csv``.
        on_plan: called once with the number of runs to train and the number of concurrent trainings.
        on_result: called with each result as soon as it is available.
        checkpoint_every_s: approximate seconds between checkpoints, or one epoch if that takes longer.

    Returns:
        One result per request, in the same order.
    """
    # Workers have other working directories, so a relative path must be made absolute.
    shared = replace(workspace, root=workspace.path()) if workspace.is_local else workspace
    results: dict[int, RunResult] = {}

    def settle(index: int, metrics: dict[str, Any] | None, problem: EmiRayError | None = None) -> None:
        results[index] = RunResult(requests[index].recipe, requests[index].seed, metrics, problem)
        _tell_result(results[index])
        on_result(results[index])

    def progress(job: str, scores: Mapping[str, Any]) -> None:
        count(
            "epoch",
            run=job,
            stage=scores["stage"],
            epoch=scores["epoch"],
            score=scores["val_pearson"],
            values=dict(scores),
        )
        on_progress(job, scores)

    with ExitStack() as locks:
        plans: dict[int, RunPlan] = {}
        clips: pa.Table | None = None
        for index, request in enumerate(requests):
            try:
                # Read once, within the loop, so that a problem is reported for each run.
                clips = require_labels(shared) if clips is None else clips
                plan = plan_run(shared, request.recipe, config, request.seed, clips)
                earlier = None if force else plan.earlier()
                finished = plan.matching(earlier)
                if finished is None:
                    _refuse_same_folder(plan, plans.values())
                    locks.enter_context(shared.driving(plan.folder, f"Run {plan.name}"))
                    if earlier is not None:
                        _LOG.warning(
                            "Run %s is trained again and replaces the one of that name, which had other settings, "
                            "features, labels or code. To keep both, write the settings into a recipe file of "
                            "another name.",
                            plan.name,
                        )
                    plans[index] = plan
                    _tell_begin(plan)
                else:
                    _remove_leftovers(plan)
                    settle(index, {**finished, "already_finished": True})
            except EmiRayError as error:
                settle(index, None, error)
        if plans and num_workers > 1:
            from emi_ray.training.ray_train import train_distributed

            on_plan(len(plans), 1)
            for index, plan in plans.items():
                try:
                    metrics = train_distributed(plan, num_workers, force, progress)
                except EmiRayError as error:
                    settle(index, None, error)
                else:
                    settle(index, {**metrics, "already_finished": False})
        elif plans:
            ParallelRuns(plans, clips, force, gpus_per_run, checkpoint_every_s, progress, settle).run(on_plan)
    return [results[index] for index in range(len(requests))]


def _tell_begin(plan: RunPlan) -> None:
    settings = plan.recipe.model_dump(mode="json")
    count("run_began", run=plan.name, recipe=plan.recipe.name, seed=plan.seed, settings=settings)


def _tell_result(result: RunResult) -> None:
    run = f"{result.recipe.name}/{result.seed}"
    if result.metrics is None:
        tell("run_failed", run=run, reason=str(result.problem))
    elif not result.metrics["already_finished"]:
        count("run_scores", run=run, scores=result.metrics)
        tell("run_finished", run=run, val_pearson=result.metrics["val_pearson"])


def _remove_leftovers(plan: RunPlan) -> None:
    """Remove leftover checkpoints of a finished run, unless another command is training in the same folder.

    They are left over if the command was killed after the run was finished.
    """
    if plan.workspace.folders(f"{plan.folder}/ray"):
        # UserError: another command is training there, and its checkpoints must stay.
        with suppress(UserError), plan.workspace.driving(plan.folder, f"Run {plan.name}"):
            plan.workspace.delete(f"{plan.folder}/ray")


def _refuse_same_folder(plan: RunPlan, others: Iterable[RunPlan]) -> None:
    if any(other.folder == plan.folder for other in others):
        raise UserError(
            f"{plan.folder} is asked for twice: give different recipes different names, and name each recipe and "
            "seed only once."
        )
