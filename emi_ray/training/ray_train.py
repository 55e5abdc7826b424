"""Training of one run on several workers with Ray Train; it resumes after a worker or the driver is killed.

Checkpoints are in ``runs/<recipe>/<seed>/ray/<run key>`` of the workspace until the run is finished. The key is
part of the path, so that a run only resumes its own checkpoints. A finished run with other settings in the same
folder is not replaced before the new run is finished.
"""

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.v2.api.config import (
    FailureConfig,
)  # the type checker takes ray.train.FailureConfig for an older one

from emi_ray.errors import EmiRayError, UserError
from emi_ray.events import tell
from emi_ray.results.runs import METRICS
from emi_ray.runtime import is_local_session
from emi_ray.runtime.node_watch import MAX_NODE_LOSSES, NodeWatch
from emi_ray.runtime.nodes import patience_s
from emi_ray.runtime.ray_errors import last_words
from emi_ray.runtime.worker_places import WorkerPlaces, whole_cluster
from emi_ray.storage import in_words
from emi_ray.training.distributed import Team
from emi_ray.training.inbox import Inbox
from emi_ray.training.plan import Location, RunPlan
from emi_ray.training.run import execute_run

_STATE = "state.pt"
_POLL_EVERY_S = 0.3
_LEAVE_S = 5.0
_MAX_FAILURES = 3

_LEAST_START_S = 60
"""Minimum of the time limit, in seconds, for starting a group of workers; ``EMI_RAY_WAIT_S`` may be shorter."""


def train_distributed(
    plan: RunPlan,
    num_workers: int,
    force: bool,
    on_progress: Callable[[str, Mapping[str, Any]], None],
    checkpoint_every_s: float = 10.0,
) -> dict[str, Any]:
    """Train one run on several workers, which share each batch, or resume it after an interruption.

    Args:
        plan: the run.
        num_workers: number of workers.
        force: discard checkpoints and stage-1 encoders of earlier commands.
        on_progress: called in this process, from another thread, after every epoch with the run's name and the
            epoch's row of ``history.csv``.
        checkpoint_every_s: approximate time between checkpoints in seconds, which is the work that a crash can cost.
            At the end of a stage, a third of it is enough.

    Returns:
        The content of ``metrics.json``.

    Raises:
        UserError: the labels or the features do not allow training.
        EmiRayError: training failed repeatedly.
    """
    # Otherwise Ray Train would resume from the checkpoint that it finds in the folder.
    if force:
        plan.workspace.delete(f"{plan.folder}/ray")
    _require_room(num_workers)
    with _listening(plan.name, num_workers, on_progress) as inbox:
        _fit(_Job(plan, inbox, not force, checkpoint_every_s), num_workers)
        problem = inbox.problem()
    if problem is not None:
        raise UserError(problem)
    metrics: dict[str, Any] = plan.workspace.read_json(f"{plan.folder}/{METRICS}")
    plan.workspace.delete(f"{plan.folder}/ray")
    return metrics


def _require_room(num_workers: int) -> None:
    """Refuse more workers than a local session, which no node can join, has CPUs.

    Raises:
        UserError: there are more.
    """
    resources = ray.cluster_resources()
    if is_local_session() and num_workers > max(resources.get("CPU", 0), resources.get("GPU", 0)):
        raise UserError(
            f"--workers {num_workers}: this machine has room for {resources['CPU']:g} workers at most."
        )


@dataclass(frozen=True)
class _Job:
    """Arguments that all workers share."""

    plan: RunPlan
    inbox: Inbox
    reuse_encoders: bool
    checkpoint_every_s: float


def _fit(job: _Job, num_workers: int) -> None:
    """Train until the run is finished. Failures do not count if a node has died meanwhile; those that occur while
    workers start are counted here, because Ray Train does not repeat all of them.

    Ray Train starts its workers again within a second, also on a dying node, whose death Ray notices only after some
    seconds. Its limited number of retries is then used up although the run is not to blame.
    """
    # Settled once: with a node lost for a while, a run on GPUs would otherwise continue on CPUs.
    on_gpus = ray.cluster_resources().get("GPU", 0) >= num_workers
    num_losses = num_bad_starts = 0
    while True:
        watch = NodeWatch()
        try:
            _trainer(job, num_workers, on_gpus).fit()
            return
        except ray.train.TrainingFailedError as error:
            start_error = getattr(error, "controller_failure", None)
            # The class is not public.
            if type(start_error).__name__ == "WorkerGroupStartupTimeoutError":
                raise EmiRayError(_no_room(job.plan.name, num_workers)) from error
            watch.await_fate()
            if watch.died and num_losses < MAX_NODE_LOSSES:
                num_losses += 1
                tell("node_lost", node=watch.died[-1])
                continue
            if start_error is not None and num_bad_starts < _MAX_FAILURES:
                num_bad_starts += 1
                continue
            raise EmiRayError(
                f"Training {job.plan.name} failed {_MAX_FAILURES + 1} times: {_cause_of(error)}. Started again, it "
                "resumes from its last checkpoint."
            ) from error


def _start_limit_s() -> int:
    """Return how long a group of workers may wait for its places: as long as a run waits for nodes."""
    return max(patience_s(), _LEAST_START_S)


def _no_room(run: str, num_workers: int) -> str:
    return (
        f"{run}: there was no room for {num_workers} workers within {_start_limit_s()} s (EMI_RAY_WAIT_S); "
        f"the cluster has {whole_cluster()}. Name fewer with --workers, or start more nodes and repeat the command: "
        "it resumes from its last checkpoint."
    )


def _trainer(job: _Job, num_workers: int, on_gpus: bool) -> TorchTrainer:
    plan = job.plan
    # Every report of a checkpoint blocks for this interval. Ray's default of 2 s can be as long as a training.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(_start_limit_s())
    return TorchTrainer(
        _train_on_worker,
        train_loop_config={"job": job},
        # All workers compute on the same kind of device: nccl needs a GPU for each worker, gloo runs on CPUs.
        torch_config=TorchConfig(backend="nccl" if on_gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=num_workers,
            use_gpu=on_gpus,
            resources_per_worker=None if on_gpus else {"CPU": 1},
        ),
        # A trainer of this name and place continues from the last checkpoint there.
        run_config=RunConfig(
            name=plan.key,
            storage_path=plan.workspace.path(f"{plan.folder}/ray"),
            storage_filesystem=plan.workspace.filesystem,
            # The limit of the controller counts over the whole life of a run, so its failures are counted in _fit.
            failure_config=FailureConfig(max_failures=_MAX_FAILURES, controller_failure_limit=0),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ),
    )


def _cause_of(error: Exception) -> str:
    """Why training failed, as the first worker that failed says."""
    # Ray raises two kinds of errors: of workers, by rank, and of its controller.
    failures = list(getattr(error, "worker_failures", {}).values())
    cause = failures[0] if failures else getattr(error, "controller_failure", error)
    return last_words(in_words(getattr(cause, "cause", None) or cause))


def _train_on_worker(config: dict[str, Any]) -> None:
    """Execute the run, resumed from the last checkpoint if there is one; runs on each worker."""
    job: _Job = config["job"]
    context, device = ray.train.get_context(), get_device()
    # The tensors are small: a second thread was no faster, and on a busy machine eight times slower.
    torch.set_num_threads(1)

    def report(scores: Mapping[str, Any]) -> None:
        if context.get_world_rank() == 0:
            job.inbox.tell(job.plan.name, scores)

    try:
        execute_run(
            job.plan,
            device=device,
            location=Location(ray.util.get_node_ip_address(), tuple(map(str, ray.get_gpu_ids()))),
            on_epoch_end=report,
            on_checkpoint=_Checkpoints(device, job.checkpoint_every_s),
            resume=_last_state(),
            reuse_encoders=job.reuse_encoders,
        )
    except UserError as error:
        # A retry would not help, so Ray must not see an error. The driver gets the message and raises it.
        job.inbox.set_problem(str(error))


class _Checkpoints:
    """Reports checkpoints to Ray Train, but not often, because each report blocks for Ray's health-check interval."""

    def __init__(self, device: torch.device, every_s: float) -> None:
        self._device = device
        self._every_s = every_s
        self._last = time.monotonic()

    def __call__(self, build: Callable[[], dict[str, Any]], stage_ended: bool) -> None:
        team = Team.current()
        wait = self._every_s / 3 if stage_ended else self._every_s
        # The clocks of the workers differ, but all of them must report or none: report waits for all workers.
        if not team.agree(time.monotonic() - self._last >= wait, self._device):
            return
        if team.rank == 0:
            # Ray Train has copied the checkpoint to the storage when report returns.
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


@contextmanager
def _listening(
    run: str, num_workers: int, on_progress: Callable[[str, Mapping[str, Any]], None]
) -> Iterator[Inbox]:
    """Yield an inbox; while the block runs, a thread of this process passes its messages to ``on_progress`` and
    watches the placement groups of the workers.
    """
    inbox, over, places = Inbox(), threading.Event(), WorkerPlaces(run, num_workers)

    def listen() -> None:
        while True:
            # The messages are taken once more after the end, so that the last epochs are not lost.
            ended = over.wait(_POLL_EVERY_S)
            for name, scores in inbox.take():
                on_progress(name, scores)
            if ended:
                return
            # Without an answer of the cluster there is nothing to mend; HeadWatch ends the command.
            with suppress(ray.exceptions.RayError):
                places.update()

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield inbox
    finally:
        over.set()
        listener.join(_LEAVE_S)  # without the cluster's head a call may never return
        inbox.close()
        with suppress(ray.exceptions.RayError):
            places.close()
