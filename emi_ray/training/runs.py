"""The runs of one command: planned, locked against other commands, trained side by side or one after the other."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import Any

from emi_ray.config import WorkspaceConfig
from emi_ray.errors import EmiRayError, UserError
from emi_ray.events import count, tell
from emi_ray.recipe import Recipe
from emi_ray.training.inbox import OnProgress
from emi_ray.training.plan import RunPlan, plan_run
from emi_ray.training.side_by_side import SideBySide
from emi_ray.workspace import Workspace


@dataclass(frozen=True)
class RunRequest:
    """A recipe to be trained with a seed."""

    recipe: Recipe
    seed: int


@dataclass(frozen=True)
class RunResult:
    """What came of a request: metrics as in ``metrics.json`` with ``already_finished``, or a problem."""

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
    """Train every request on the features of a workspace; a Ray session must be up.

    A run that was interrupted is resumed. One that is finished, with the same recipe, seed, features and labels, is
    not repeated, unless ``force``. A run that cannot be trained does not stop the others.

    Args:
        num_workers: more than one share each batch of one run after the other (:func:`train_distributed`).
        force: forget checkpoints and stage-1 encoders of earlier commands and train anew.
        gpus_per_run: by default a share by the features' size and the GPUs' memory.
        on_plan: called once with how many runs are to be trained, and how many trainings run at once.
        on_result: called with each result as soon as it is there.
        checkpoint_every_s: seconds of work that a crash may cost, about, or one epoch where that takes longer.

    Returns:
        One result a request, in their order.
    """
    shared = replace(workspace, root=workspace.path()) if workspace.is_local else workspace
    results: dict[int, RunResult] = {}

    def settle(index: int, metrics: dict[str, Any] | None, problem: EmiRayError | None = None) -> None:
        results[index] = RunResult(requests[index].recipe, requests[index].seed, metrics, problem)
        _tell_result(results[index])
        on_result(results[index])

    def progress(job: str, scores: Mapping[str, Any]) -> None:
        count("epoch", run=job, stage=scores["stage"], epoch=scores["epoch"], score=scores["val_pearson"])
        on_progress(job, scores)

    with ExitStack() as locks:
        plans: dict[int, RunPlan] = {}
        for index, request in enumerate(requests):
            try:
                plan = plan_run(shared, request.recipe, config, request.seed)
                finished = None if force else plan.finished()
                if finished is None:
                    _refuse_same_folder(plan, plans.values())
                    locks.enter_context(shared.driving(plan.folder, f"Run {plan.name}"))
                    plans[index] = plan
                else:
                    _remove_leftovers(plan)
                    settle(index, {**finished, "already_finished": True})
            except EmiRayError as error:
                settle(index, None, error)
        if plans and num_workers > 1:
            from emi_ray.training.ray_worker import train_distributed

            on_plan(len(plans), 1)
            for index, plan in plans.items():
                try:
                    metrics = train_distributed(plan, num_workers, force, progress)
                except EmiRayError as error:
                    settle(index, None, error)
                else:
                    settle(index, {**metrics, "already_finished": False})
        elif plans:
            SideBySide(plans, force, gpus_per_run, checkpoint_every_s, progress, settle).run(on_plan)
    return [results[index] for index in range(len(requests))]


def _tell_result(result: RunResult) -> None:
    run = f"{result.recipe.name}/{result.seed}"
    if result.metrics is None:
        tell("run_failed", run=run, reason=str(result.problem))
    elif not result.metrics["already_finished"]:
        tell("run_finished", run=run, val_pearson=result.metrics["val_pearson"])


def _remove_leftovers(plan: RunPlan) -> None:
    """Remove the checkpoints of a finished run that was killed before it removed them, unless another run of the
    same folder is at work."""
    if plan.workspace.folders(f"{plan.folder}/ray"):
        with suppress(UserError), plan.workspace.driving(plan.folder, f"Run {plan.name}"):
            plan.workspace.delete(f"{plan.folder}/ray")


def _refuse_same_folder(plan: RunPlan, others: Iterable[RunPlan]) -> None:
    if any(other.folder == plan.folder for other in others):
        raise UserError(
            f"{plan.folder} is asked for twice: give two recipes two names, and name each recipe and seed once."
        )
