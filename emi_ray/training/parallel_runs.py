"""Training of several runs in parallel: each stage-1 encoder and each run is a Ray task.

Ray starts as many tasks at once as the GPUs or cores of the cluster allow, reuses their processes, repeats tasks
whose process or node is lost, and uses nodes that join. An encoder that several runs share is one task, on which
all of them depend. Features are also read by tasks, once for each command (:mod:`emi_ray.training.shared_features`).
:mod:`emi_ray.training.ray_train` trains a single large run on several workers.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import ray

from emi_ray.errors import EmiRayError
from emi_ray.runtime import end_tasks, is_local_session, machine
from emi_ray.schema import EncoderName
from emi_ray.storage import in_words
from emi_ray.training.data.clip_data import join_clips
from emi_ray.training.inbox import Inbox, OnProgress
from emi_ray.training.plan import EncoderJob, Location, RunPlan, encoder_jobs
from emi_ray.training.processes import OWN_PROCESSES, start_processes
from emi_ray.training.resources import JobResources, size_jobs, smallest_gpu_bytes
from emi_ray.training.resume_state import ResumeState
from emi_ray.training.shared_features import MAX_RETRIES, SharedFeatures, num_bytes_of, opened

if TYPE_CHECKING:
    from emi_ray.training.stages.encoder_job import EncoderDone

_POLL_EVERY_S = 0.3


@dataclass(frozen=True)
class _Job:
    """Arguments of the task of a run or an encoder, besides its data."""

    name: str
    inbox: Inbox
    resources: JobResources
    force: bool
    checkpoint_every_s: float


@dataclass
class ParallelRuns:
    """Trains the runs of one command.

    Attributes:
        plans: the runs, by the index of their request.
        force: whether checkpoints and encoders of earlier commands are discarded.
        gpus_per_run: fraction of a GPU for each training; None chooses it.
        checkpoint_every_s: approximate seconds between checkpoints.
        on_progress: called after each epoch.
        settle: called with the index and the metrics of a finished run, or with None and its problem.
    """

    plans: Mapping[int, RunPlan]
    clips: pa.Table
    force: bool
    gpus_per_run: float | None
    checkpoint_every_s: float
    on_progress: OnProgress
    settle: Callable[..., None]
    _encoders: dict[str, Any] = field(default_factory=dict)
    _running: dict[Any, int] = field(default_factory=dict)
    _bytes: dict[tuple[Any, ...], int] = field(default_factory=dict)
    _environment: dict[str, Any] = field(default_factory=dict)

    def run(self, on_plan: Callable[[int, int], None]) -> None:
        """Submit all tasks and collect their progress and results until all are done."""
        workspace = next(iter(self.plans.values())).workspace
        # Stored once, because a table passed by value would be copied for every task.
        self._clips = ray.put(self.clips)
        inbox = Inbox()
        with ExitStack() as ending:
            ending.callback(inbox.close)
            sized = self._size()
            jobs = {job.key: job for plan in self.plans.values() for job in encoder_jobs(plan)}
            # Discarded before any task starts, because a task that is repeated after a crash must find its own
            # state.
            if self.force:
                for key in [*jobs, *(plan.key for plan in self.plans.values())]:
                    ResumeState(workspace, key).forget()
            at_once = min(sized.concurrent, max(len(jobs), len(self.plans)))
            on_plan(len(self.plans), at_once)
            if is_local_session() and not sized.gpus:
                imports = start_processes(at_once, sized)
                self._environment = OWN_PROCESSES
                # If every core imports, reading at the same time would delay the imports and the first score. An
                # import that fails is repeated by the training, so its error does not matter here.
                if at_once >= machine().cpus:
                    ray.wait(imports, num_returns=len(imports))
            self._features = SharedFeatures(self._clips, sum(self._bytes.values()))
            ending.callback(self._features.close)
            ending.callback(self._stop)
            self._submit_encoders(list(jobs.values()), inbox, sized)
            self._submit_runs(inbox, sized)
            self._collect(inbox)

    def _size(self) -> JobResources:
        largest = max(self._bytes_of(plan, plan.stores) for plan in self.plans.values())
        return size_jobs(largest, None, self.gpus_per_run, smallest_gpu_bytes())

    def _bytes_of(self, plan: RunPlan, streams: Iterable[Any]) -> int:
        """Return the size in memory of the features of some encoders. The sizes are kept: one for each way in which
        a store is read, with other limits or extra columns.
        """
        keys = []
        for stream in [stream for stream in streams if stream in plan.stores]:
            store, extras = plan.stores[stream], plan.recipe.encoders[stream].extras
            keys.append((store.folder, plan.max_steps.get(stream), extras))
            if keys[-1] not in self._bytes:
                self._bytes[keys[-1]] = num_bytes_of(store, len(extras))
        return sum(self._bytes[key] for key in keys)

    def _cost(self, plan: RunPlan, streams: Iterable[Any]) -> tuple[bool, int]:
        """Return the sort key of a training: backbones first, then by the features read over all epochs.

        Long trainings are started first, so that the last ones to finish are short.
        """
        recipe, chosen = plan.recipe, list(streams)
        read = [recipe.training_of(recipe.encoders[m]).epochs * self._bytes_of(plan, [m]) for m in chosen]
        return bool(recipe.finetuned & {*chosen}), sum(read)

    def _share_out(self, sized: JobResources, num_jobs: int) -> list[JobResources]:
        return [sized] * num_jobs if self.gpus_per_run else sized.shared_out(num_jobs)

    def _submit_encoders(self, jobs: list[EncoderJob], inbox: Inbox, sized: JobResources) -> None:
        """Submit one task for each encoder, the longest first."""
        serves = Counter(job.key for plan in self.plans.values() for job in encoder_jobs(plan))
        jobs.sort(key=lambda job: self._cost(job.plan, [job.modality]), reverse=True)
        # Features are read in the order of these calls: first those of the longest training, then those of the
        # shortest, which gives the first score.
        for job in [*jobs[:1], *jobs[-1:]]:
            self._features_of(job)
        for job, resources in zip(jobs, self._share_out(sized, len(jobs)), strict=True):
            others = f" (+{serves[job.key] - 1})" if serves[job.key] > 1 else ""
            context = self._job(f"{job.plan.name} {job.modality}{others}", inbox, resources)
            modalities, packed = self._features_of(job)
            self._encoders[job.key] = self._task(_train_encoder, context).remote(
                context, job, self._clips, modalities, *packed
            )

    def _features_of(self, job: EncoderJob) -> tuple[list[EncoderName], list[Any]]:
        """Return the encoder's name and the reference to its features; two empty lists if it reads none."""
        modalities = [job.modality] if job.modality in job.plan.stores else []
        return modalities, [self._read(job.plan, modality) for modality in modalities]

    def _submit_runs(self, inbox: Inbox, sized: JobResources) -> None:
        order = sorted(
            self.plans, key=lambda i: self._cost(self.plans[i], self.plans[i].recipe.streams), reverse=True
        )
        for index, resources in zip(order, self._share_out(sized, len(order)), strict=True):
            plan = self.plans[index]
            context = self._job(plan.name, inbox, resources)
            encoders = [self._encoders[job.key] for job in encoder_jobs(plan)]
            packed = [self._read(plan, modality) for modality in plan.stores]
            # Ray resolves references only among the top-level arguments, so encoders and features are passed as
            # *args.
            reference = self._task(_train_run, context).remote(
                context, plan, self._clips, [*plan.stores], len(encoders), *encoders, *packed
            )
            self._running[reference] = index

    def _job(self, name: str, inbox: Inbox, resources: JobResources) -> _Job:
        return _Job(name, inbox, resources, self.force, self.checkpoint_every_s)

    def _task(self, function: Callable[..., Any], context: _Job) -> Any:
        # Without max_calls=0, Ray ends a process that used a GPU after its task, and the next one imports torch
        # again.
        task: Any = ray.remote(max_retries=MAX_RETRIES, max_calls=0, runtime_env=self._environment)(function)
        return task.options(name=f"train {context.name}", **context.resources.options)

    def _read(self, plan: RunPlan, modality: Any) -> Any:
        """Return a reference to the features of an encoder."""
        extras = plan.recipe.encoders[modality].extras
        return self._features.of(plan.stores[modality], plan.max_steps.get(modality), extras)

    def _stop(self) -> None:
        """End unfinished tasks: in a session that lasts, they would replace what the next command writes."""
        end_tasks([*self._encoders.values(), *self._running])

    def _collect(self, inbox: Inbox) -> None:
        waiting = dict(self._running)
        while waiting:
            done, _ = ray.wait(list(waiting), num_returns=1, timeout=_POLL_EVERY_S)
            for job, scores in inbox.take():
                self.on_progress(job, scores)
            for reference in done:
                index = waiting.pop(reference)
                try:
                    self.settle(index, {**ray.get(reference), "already_finished": False})
                except ray.exceptions.RayError as error:
                    self.settle(index, None, _problem(self.plans[index], error))
        # The last run's epochs may have arrived after the inbox was emptied for the last time.
        for job, scores in inbox.take():
            self.on_progress(job, scores)


def _train_encoder(
    context: _Job, job: EncoderJob, clips: pa.Table, modalities: Sequence[Any], *packed: Any
) -> "EncoderDone":
    """Train an encoder; runs as a Ray task."""
    from emi_ray.training.stages.encoder_job import (
        train_encoder,  # imports torch, which the driver does not need
    )

    device = context.resources.take_up()
    data = join_clips(clips, dict(zip(modalities, map(opened, packed), strict=True)))
    job.plan.require_unchanged(data)
    resume_state = ResumeState(job.plan.workspace, job.key, context.checkpoint_every_s)
    return train_encoder(
        job,
        job.plan.with_texts(data) if job.modality == job.plan.recipe.transcript_stream else data,
        resume_state,
        device=device,
        location=_location(),
        on_epoch_end=lambda scores: context.inbox.tell(context.name, scores),
        reuse=not context.force,
    )


def _train_run(
    context: _Job,
    plan: RunPlan,
    clips: pa.Table,
    modalities: Sequence[Any],
    num_encoders: int,
    *encoders_and_features: Any,
) -> dict[str, Any]:
    """Execute a run after its encoders are trained; runs as a Ray task."""
    from emi_ray.training.run import execute_run
    from emi_ray.training.stages.encoder_job import earlier_of

    encoders, packed = encoders_and_features[:num_encoders], encoders_and_features[num_encoders:]
    device = context.resources.take_up()
    data = join_clips(clips, dict(zip(modalities, map(opened, packed), strict=True)))
    plan.require_unchanged(data)
    resume_state = ResumeState(plan.workspace, plan.key, context.checkpoint_every_s)
    metrics = execute_run(
        plan,
        data=plan.with_texts(data),
        device=device,
        location=_location(),
        on_epoch_end=lambda scores: context.inbox.tell(context.name, scores),
        on_checkpoint=resume_state.keep,
        resume=resume_state.load(),
        earlier=earlier_of(encoders),
    )
    # Only now, after metrics.json was written: a crash in between costs nothing.
    resume_state.forget()
    return metrics


def _location() -> Location:
    gpus = ray.get_runtime_context().get_accelerator_ids().get("GPU", [])
    return Location(ray.util.get_node_ip_address(), tuple(map(str, gpus)))


_LOSSES = (
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.ObjectLostError,
)
"""Errors of Ray for a process, a node or a result that is lost."""


def _problem(plan: RunPlan, error: ray.exceptions.RayError) -> EmiRayError:
    """Return the error to show to the user for a run that failed or was lost."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, EmiRayError):
        return cause
    again = "Started again, it resumes from its last checkpoint."
    # A task that could not start, because what it needs was lost, reports that loss as its cause.
    if isinstance(cause, _LOSSES):
        return EmiRayError(
            f"{plan.name} was not trained: an encoder or features that it needs were lost, because a process was "
            f"killed or a node was lost ({type(cause).__name__}). {again}"
        )
    if isinstance(error, ray.exceptions.RayTaskError):
        return EmiRayError(f"Training {plan.name} failed: {in_words(cause).rstrip('.')}. {again}")
    if isinstance(error, ray.exceptions.RuntimeEnvSetupError):
        return EmiRayError(
            f"Ray could not start a process to train {plan.name}: {in_words(error).rstrip('.')}. {again}"
        )
    return EmiRayError(
        f"Training {plan.name} was lost {MAX_RETRIES + 1} times: its process was killed, perhaps because memory ran "
        f"out, or its node was lost ({type(error).__name__}). {again}"
    )
