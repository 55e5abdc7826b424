"""One run, from the workspace's features to the files of its folder. Knows no Ray."""

import math
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import torch

from emi_ray.training.checkpoint import ModelDescription, versions
from emi_ray.training.clip_data import ClipData
from emi_ray.training.encoder_cache import WorkspaceEncoderCache
<<<<<<< HEAD
from emi_ray.training.encoder_key import ALGORITHM
from emi_ray.training.feature_sources import find_stores
from emi_ray.training.inputs import find_transcripts, read_inputs, require_labels
=======
>>>>>>> 2e523aa (The driver of a training plans without torch: planning in a module of its own, tasks import what they need)
from emi_ray.training.loop import OnEpochEnd
from emi_ray.training.plan import Place, RunPlan
from emi_ray.training.rows import DRAWN_SEED, draw_split, split_rows
from emi_ray.training.run_files import write_run
from emi_ray.training.stages import Hooks, OnRunCheckpoint, train_recipe
from emi_ray.training.team import Team
<<<<<<< HEAD
from emi_ray.training.transcripts import read_transcripts, resolve_backbones, with_tokens
from emi_ray.transcript_store import TranscriptStore
from emi_ray.workspace import Workspace


@dataclass(frozen=True)
class RunPlan:
    """What is to be trained, on which features. Cheap and picklable.

    Attributes:
        inputs: hashes of what is read: of the corpus (``clips``), and of each encoder's features by content.
        transcripts: fingerprint of the recogniser whose transcripts a fine-tuned text backbone reads where the corpus
            gives none; None where there is none.
        key: hash of everything that determines the run.
    """

    workspace: Workspace
    recipe: Recipe
    seed: int
    fingerprints: Mapping[Stream, str]
    media: MediaSettings
    inputs: Mapping[str, str]
    key: str
    transcripts: str | None = None

    @property
    def folder(self) -> str:
        return f"runs/{self.recipe.name}/{self.seed}"

    @property
    def stores(self) -> dict[Stream, FeatureStore]:
        return {
            stream: FeatureStore(self.workspace, self.recipe.modality_of(stream), fingerprint)
            for stream, fingerprint in self.fingerprints.items()
        }

    @property
    def transcript_store(self) -> TranscriptStore | None:
        return None if self.transcripts is None else TranscriptStore(self.workspace, self.transcripts)

    @property
    def name(self) -> str:
        return f"{self.recipe.name}/{self.seed}"

    @property
    def max_steps(self) -> dict[Stream, int]:
        """How many steps of sound speech backbones look at, so that no more are held in memory."""
        recipe = self.recipe
        speech = recipe.finetuned - {recipe.transcript_stream}
        return {m: recipe.encoders[m].max_steps or MAX_STEPS for m in speech}

    def read_data(self) -> ClipData:
        """All clips, with everything that the recipe's encoders read."""
        limits, extras = self.max_steps, self.recipe.extras
        return self.with_texts(read_clip_data(self.workspace, self.stores, max_steps=limits, extras=extras))

    def with_texts(self, data: ClipData) -> ClipData:
        """The same clips, with the tokens of their transcripts where the recipe fine-tunes a text backbone."""
        if self.recipe.transcript_stream is None:
            return data
        return with_tokens(data, self.recipe, read_transcripts(self.workspace.clips(), self.transcript_store))

    def finished(self) -> dict[str, Any] | None:
        """The metrics of this very run if it is finished; None if it is not, or ran with other settings."""
        path = f"{self.folder}/{METRICS}"
        found = self.workspace.read_json(path) if self.workspace.exists(path) else {}
        return found if found.get("run_key") == self.key else None


def plan_run(workspace: Workspace, recipe: Recipe, config: WorkspaceConfig, seed: int) -> RunPlan:
    """Find the features and compute the run's key, which changes with the recipe, the seed, the content of the
    features and transcripts, the clips, and their labels with their ranges and order.

    Raises:
        UserError: a modality has no features, there is no corpus, or it is not told which transcripts are meant.
    """
    require_labels(workspace)
    recipe = resolve_backbones(recipe)
    stores = find_stores(workspace, recipe, config)
    fingerprints = {modality: store.fingerprint for modality, store in stores.items()}
    transcripts = find_transcripts(workspace, config) if recipe.transcript_stream is not None else None
    inputs = read_inputs(workspace.clips(), recipe, stores, transcripts)
    recogniser = transcripts.fingerprint if transcripts is not None else None
    return RunPlan(
        workspace,
        recipe,
        seed,
        fingerprints,
        config.media,
        inputs,
        run_key(recipe, seed, inputs),
        recogniser,
    )


def run_key(recipe: Recipe, seed: int, inputs: Mapping[str, str]) -> str:
    """Hash of everything that determines a run: equal for two runs that end alike."""
    decided_by = recipe.model_dump(mode="json", exclude={"title", "paper"})
    return hash_of([ALGORITHM, decided_by, seed, dict(inputs)])


def hash_of(value: Any) -> str:
    """Twelve hexadecimal digits of a value that JSON can hold."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=6).hexdigest()


@dataclass(frozen=True)
class Place:
    """Where a training ran: the node's address, and the ids of the GPUs that it was given."""

    node: str
    gpus: tuple[str, ...] = ()
=======
>>>>>>> 2e523aa (The driver of a training plans without torch: planning in a module of its own, tasks import what they need)


@dataclass(frozen=True)
class Earlier:
    """What was trained for a run before it started: stage-1 encoders, each in a job of its own.

    Attributes:
        trained: where each encoder was trained that was trained for this run, and not found from an earlier one.
        started: when the first of these jobs started, in seconds since 1970.
        seconds: how long they took in all.
    """

    trained: Mapping[str, Place] = field(default_factory=dict)
    started: float = math.inf
    seconds: float = 0.0


def execute_run(
    plan: RunPlan,
    *,
    data: ClipData | None = None,
    device: torch.device | None = None,
    place: Place | None = None,
    on_epoch_end: OnEpochEnd | None = None,
    on_checkpoint: OnRunCheckpoint | None = None,
    resume: Mapping[str, Any] | None = None,
    reuse_encoders: bool = True,
    earlier: Earlier | None = None,
) -> dict[str, Any]:
    """Read, train, predict, write; returns the metrics.

    Under ``torch.distributed`` every worker calls this, and the first one writes.

    Args:
        data: as :meth:`RunPlan.read_data` returns it, where the caller holds it already.

    Raises:
        UserError: the labels or the features do not allow training.
    """
    device, place = device or torch.device("cpu"), place or Place(socket.gethostname())
    earlier, clock = earlier or Earlier(), _Clock(resume or {})

    def checkpoint(build: Callable[[], dict[str, Any]], stage_ended: bool) -> None:
        if on_checkpoint is not None:
            on_checkpoint(lambda: {**build(), **clock.dump()}, stage_ended)

    data = plan.read_data() if data is None else data
    rows = split_rows(data, plan.recipe.split)
    split = plan.recipe.split
    if split != "official" and Team.current().rank == 0:
        plan.workspace.write_table(f"splits/{split}-{DRAWN_SEED}.parquet", draw_split(data, split))
    cache = WorkspaceEncoderCache(plan.workspace, reuse_encoders)
    hooks = Hooks(on_epoch_end, checkpoint, resume, cache)
    trained = train_recipe(plan.recipe, data, rows, seed=plan.seed, device=device, hooks=hooks)
    if Team.current().rank != 0:
        return {}
    trained = replace(trained, reused=trained.reused - earlier.trained.keys())
    extractors = {modality: store.describe() for modality, store in plan.stores.items()}
    description = ModelDescription(
        recipe=plan.recipe,
        seed=plan.seed,
        labels=data.labels,
        extractors=extractors,
        media=plan.media,
        versions=versions(),
        run_key=plan.key,
        inputs=dict(plan.inputs),
        transcriber=plan.transcript_store.describe() if plan.transcript_store is not None else None,
    )
    history = {
        "started": _timestamp(min(clock.started, earlier.started)),
        "node": place.node,
        "gpus": sorted({gpu for each in (place, *earlier.trained.values()) for gpu in each.gpus}),
        "device": device.type,
    }
    return write_run(
        plan.workspace,
        plan.folder,
        trained,
        data,
        description,
        lambda: {**history, "seconds": round(clock.seconds + earlier.seconds, 3)},
    )


class _Clock:
    """Seconds of work on a run, which a resumed run goes on counting, and when it first started."""

    def __init__(self, resume: Mapping[str, Any]) -> None:
        self.started: float = resume.get("run_started", time.time())
        self._origin = time.perf_counter() - resume.get("run_seconds", 0.0)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._origin

    def dump(self) -> dict[str, float]:
        return {"run_seconds": self.seconds, "run_started": self.started}


def _timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
