"""What is to be trained: a run, and the stage-1 encoders that it needs.

Everything here is cheap and imports no torch: the driver plans many runs within a second.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from typing import Any

from emi_ray.config import MediaSettings, WorkspaceConfig
from emi_ray.feature_store import FeatureStore
from emi_ray.recipe import Recipe
from emi_ray.recipe_parts import SPEECH_STEPS
from emi_ray.schema import Stream
from emi_ray.training.clip_data import ClipData, read_clip_data
from emi_ray.training.feature_sources import find_stores
from emi_ray.training.inputs import find_transcripts, read_inputs, read_transcripts, require_labels
from emi_ray.transcript_store import TranscriptStore
from emi_ray.workspace import Workspace

METRICS = "metrics.json"

ALGORITHM = 6
"""Grows whenever the same settings come to other weights."""


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

    @cached_property
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
        return {name: recipe.encoders[name].max_steps or SPEECH_STEPS for name in speech}

    def read_data(self) -> ClipData:
        """All clips, with everything that the recipe's encoders read."""
        limits, extras = self.max_steps, self.recipe.extras
        return self.with_texts(read_clip_data(self.workspace, self.stores, max_steps=limits, extras=extras))

    def with_texts(self, data: ClipData) -> ClipData:
        """The same clips, with the tokens of their transcripts where the recipe fine-tunes a text backbone."""
        if self.recipe.transcript_stream is None:
            return data
        from emi_ray.training.transcripts import with_tokens  # imports torch

        return with_tokens(data, self.recipe, read_transcripts(self.workspace.clips(), self.transcript_store))

    def finished(self) -> dict[str, Any] | None:
        """The metrics of this very run if it is finished; None if it is not, or ran with other settings."""
        path = f"{self.folder}/{METRICS}"
        try:
            found = self.workspace.read_json(path)
        except FileNotFoundError:
            return None
        return found if found.get("run_key") == self.key else None


def plan_run(workspace: Workspace, recipe: Recipe, config: WorkspaceConfig, seed: int) -> RunPlan:
    """Find the features and compute the run's key, which changes with the recipe, the seed, the content of the
    features and transcripts, the clips, and their labels with their ranges and order.

    Raises:
        UserError: a modality has no features, there is no corpus, or it is not told which transcripts are meant.
    """
    require_labels(workspace)
    if recipe.finetuned:
        from emi_ray.training.transcripts import resolve_backbones  # imports torch

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


@dataclass(frozen=True)
class EncoderJob:
    """What is to be trained: the encoder of one modality, as ``plan`` wants it.

    Two jobs with the same ``key`` end with the same weights, whichever runs they belong to.
    """

    plan: RunPlan
    modality: Stream
    key: str


def encoder_jobs(plan: RunPlan) -> list[EncoderJob]:
    """The stage-1 encoders of a run; none for a recipe that trains all of its parts together."""
    recipe = plan.recipe
    if recipe.fusion is not None and (recipe.stages == "joint" or recipe.fusion.type == "late"):
        return []
    return [EncoderJob(plan, modality, _key(plan, modality)) for modality in recipe.streams]


def _key(plan: RunPlan, modality: Stream) -> str:
    inputs = [plan.inputs["clips"], plan.inputs.get(modality), plan.recipe.split]
    return hash_of([encoder_settings(plan.recipe, modality, plan.seed), inputs])


def encoder_settings(recipe: Recipe, modality: Stream, seed: int) -> dict[str, Any]:
    """What the recipe and the code decide of an encoder stage, as plain values: all but the clips."""
    settings = recipe.encoders[modality]
    return {
        "algorithm": ALGORITHM,
        "modality": modality,
        "encoder": settings.model_dump(mode="json", exclude={"features", "fusion_lr_ratio"}),
        "training": recipe.training_of(settings).model_dump(mode="json", exclude={"seed"}),
        "objective": recipe.objective.model_dump(mode="json"),
        "seed": seed,
        "torch": metadata.version("torch"),
    }
