"""A run under Ray Train: one to many workers, resumed after any of them, or the driver, is killed.

Checkpoints live in ``runs/<recipe>/<seed>/ray/<run key>`` of the workspace until the run is finished. The key
is part of the name, so that a run resumes its own checkpoints only. A run with other settings in the same
folder is replaced when the new one is finished, not before.
"""

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from emi_ray.config import WorkspaceConfig
from emi_ray.errors import EmiRayError, UserError
from emi_ray.recipe import Recipe
from emi_ray.training.run import RunPlan, execute_run, plan_run
from emi_ray.training.team import Team
from emi_ray.workspace import Workspace

OnProgress = Callable[[Mapping[str, Any]], None]
"""Called on the driver, from another thread, after every epoch with what ``history.csv`` will say of it."""

_STATE = "state.pt"
_POLL_EVERY_S = 0.3
_MAX_FAILURES = 3


def train(
    workspace: Workspace,
    recipe: Recipe,
    config: WorkspaceConfig,
    seed: int | None = None,
    num_workers: int = 1,
    on_progress: OnProgress | None = None,
    force: bool = False,
    checkpoint_every_s: float = 10.0,
) -> dict[str, Any]:
    """Train a recipe on the features of a workspace; a Ray session must be up.

    A run that was interrupted is resumed. One that is finished, with the same recipe, seed, features and
    labels,
    is not repeated: its metrics come back with ``"already_finished": True``, unless ``force``.

    Args:
        seed: by default the recipe's ``training.seed``.
        force: forget checkpoints and stage-1 encoders of earlier runs and train anew.
        checkpoint_every_s: how much work a crash may cost, about; a stage's end is kept after a third of it.

    Returns:
        What ``metrics.json`` holds, and ``already_finished``.

    Raises:
        UserError: the features or the labels do not allow training, or another process trains this run (behind a
            URI that is not noticed).
        EmiRayError: training failed again and again.
    """
    shared = replace(workspace, root=workspace.path()) if workspace.is_local else workspace
    plan = plan_run(shared, recipe, config, recipe.training.seed if seed is None else seed)
    finished = plan.finished()
    if finished is not None and not force:
        return {**finished, "already_finished": True}
    with shared.driving(plan.folder, f"Run {recipe.name}/{plan.seed}"):
        if force:
            shared.delete(f"{plan.folder}/ray")
        with _listening(on_progress) as inbox:
            job = _Job(plan, inbox, reuse_encoders=not force, checkpoint_every_s=checkpoint_every_s)
            _fit(job, num_workers)
            problem: str | None = ray.get(inbox.problem.remote())
        if problem is not None:
            raise UserError(problem)
        metrics: dict[str, Any] = shared.read_json(f"{plan.folder}/metrics.json")
        shared.delete(f"{plan.folder}/ray")
        return {**metrics, "already_finished": False}


@dataclass(frozen=True)
class _Job:
    """What every worker is told."""

    plan: RunPlan
    inbox: Any
    reuse_encoders: bool
    checkpoint_every_s: float


def _fit(job: _Job, num_workers: int) -> None:
    plan = job.plan
    # How long every report of a checkpoint blocks; Ray's default of 2 s is as long as training takes here.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    enough_gpus = ray.cluster_resources().get("GPU", 0) >= num_workers
    trainer = TorchTrainer(
        _train_on_worker,
        train_loop_config={"job": job},
        torch_config=TorchConfig(backend="nccl" if enough_gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=num_workers,
            use_gpu=enough_gpus,
            resources_per_worker=None if enough_gpus else {"CPU": 1},
        ),
        run_config=RunConfig(
            name=plan.key,
            storage_path=plan.workspace.path(f"{plan.folder}/ray"),
            storage_filesystem=plan.workspace.filesystem,
            failure_config=FailureConfig(max_failures=_MAX_FAILURES),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ),
    )
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise EmiRayError(
            f"Training {plan.folder} failed {_MAX_FAILURES + 1} times. Started again, it resumes from its "
            f"last checkpoint. {error}"
        ) from error


def _train_on_worker(config: dict[str, Any]) -> None:
    """What each worker runs: the whole run, resumed from the last checkpoint if there is one."""
    job: _Job = config["job"]
    context, device = ray.train.get_context(), get_device()
    # The tensors are small: a second thread gained nothing and, on a busy machine, cost eight times the time.
    torch.set_num_threads(1)

    def tell(scores: Mapping[str, Any]) -> None:
        if context.get_world_rank() == 0:
            job.inbox.add.remote(dict(scores))

    try:
        execute_run(
            job.plan,
            device=device,
            on_epoch_end=tell,
            on_checkpoint=_Checkpoints(device, job.checkpoint_every_s),
            resume=_last_state(),
            reuse_encoders=job.reuse_encoders,
        )
    except UserError as error:
        # Trying again would not help: the driver is told, and raises it.
        ray.get(job.inbox.set_problem.remote(str(error)))


class _Checkpoints:
    """Reports checkpoints to Ray Train, seldom, because each report blocks for its health-check interval."""

    def __init__(self, device: torch.device, every_s: float) -> None:
        self._device = device
        self._every_s = every_s
        self._last = time.monotonic()

    def __call__(self, build: Callable[[], dict[str, Any]], stage_ended: bool) -> None:
        team = Team.current()
        wait = self._every_s / 3 if stage_ended else self._every_s
        if not team.agree(time.monotonic() - self._last >= wait, self._device):
            return
        if team.rank == 0:
            with tempfile.TemporaryDirectory() as folder:
                torch.save(build(), Path(folder) / _STATE)
                ray.train.report({}, checkpoint=Checkpoint.from_directory(folder))
        else:
            ray.train.report({})
        self._last = time.monotonic()


def _last_state() -> dict[str, Any] | None:
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        state: dict[str, Any] = torch.load(Path(folder) / _STATE, map_location="cpu", weights_only=True)
        return state


class _Inbox:
    """Carries news from the workers to the driver without making either wait."""

    def __init__(self) -> None:
        self._news: list[dict[str, Any]] = []
        self._problem: str | None = None

    def add(self, scores: dict[str, Any]) -> None:
        self._news.append(scores)

    def take(self) -> list[dict[str, Any]]:
        news, self._news = self._news, []
        return news

    def set_problem(self, message: str) -> None:
        self._problem = message

    def problem(self) -> str | None:
        return self._problem


@contextmanager
def _listening(on_progress: OnProgress | None) -> Iterator[Any]:
    """An inbox whose news reach ``on_progress`` from a thread of this process while the block lasts."""
    inbox: Any = ray.remote(num_cpus=0)(_Inbox).remote()
    over = threading.Event()

    def listen() -> None:
        while on_progress is not None:
            ended = over.wait(_POLL_EVERY_S)
            for scores in ray.get(inbox.take.remote()):
                on_progress(scores)
            if ended:
                return

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield inbox
    finally:
        over.set()
        listener.join()
        ray.kill(inbox)
