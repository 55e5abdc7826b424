"""Plans of runs and of the stage-1 encoders that they need.

Planning is fast and does not import torch, so that the driver can plan many runs within a second.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from typing import Any

import pyarrow as pa

from emi_ray.config import MediaSettings, WorkspaceConfig
from emi_ray.errors import UserError
from emi_ray.recipe.schema import Recipe
from emi_ray.recipe.sections import SPEECH_STEPS
from emi_ray.results.runs import METRICS, run_folder
from emi_ray.schema import EncoderName
from emi_ray.store.feature_store import FeatureStore
from emi_ray.store.transcript_store import TranscriptStore
from emi_ray.training.data.clip_data import ClipData
from emi_ray.training.data.feature_sources import find_stores
from emi_ray.training.data.input_hashes import (
    CLIPS,
    find_transcripts,
    hash_of_clips,
    hash_of_features,
    hash_of_transcripts,
    read_inputs,
    read_transcripts,
    require_labels,
)
from emi_ray.training.data.packed_reading import read_clip_data
from emi_ray.workspace import Workspace

ALGORITHM = 6
"""Version of the training algorithm; increased whenever the same settings lead to different weights."""


@dataclass(frozen=True)
class RunPlan:
    """A run to train: its recipe, seed and inputs. It is small and can be pickled.

    Attributes:
        workspace: holds the features and receives the run.
        recipe: the resolved recipe.
        seed: random seed.
        fingerprints: fingerprint of the features of each encoder.
        media: settings of the decoding.
        inputs: hashes of the inputs: the corpus (``clips``) and the content of each encoder's features.
        key: hash of everything that determines the run.
        transcripts: fingerprint of the speech recogniser whose transcripts a fine-tuned text backbone reads if the
            corpus gives none; None without one.
    """

    workspace: Workspace
    recipe: Recipe
    seed: int
    fingerprints: Mapping[EncoderName, str]
    media: MediaSettings
    inputs: Mapping[str, str]
    key: str
    transcripts: str | None = None

    @property
    def folder(self) -> str:
        return run_folder(self.recipe.name, self.seed)

    @cached_property
    def stores(self) -> dict[EncoderName, FeatureStore]:
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
    def max_steps(self) -> dict[EncoderName, int]:
        """Maximum number of steps that each speech backbone reads, so that no more are kept in memory."""
        recipe = self.recipe
        speech = recipe.finetuned - {recipe.transcript_stream}
        return {name: recipe.encoders[name].max_steps or SPEECH_STEPS for name in speech}

    def read_clips(self) -> pa.Table:
        """Read the corpus.

        Raises:
            UserError: it has changed since the run was planned.
        """
        clips = self.workspace.clips()
        self._require(CLIPS, hash_of_clips(clips), "The corpus has")
        return clips

    def read_data(self, clips: pa.Table | None = None) -> ClipData:
        """Read all clips with the features or tokens of all encoders.

        Args:
            clips: result of :meth:`read_clips`, if the caller has it.

        Raises:
            UserError: the corpus or the features have changed since the run was planned.
        """
        clips = self.read_clips() if clips is None else clips
        limits, extras = self.max_steps, self.recipe.extras
        data = read_clip_data(self.workspace, self.stores, max_steps=limits, extras=extras, clips=clips)
        self.require_unchanged(data)
        return self.with_texts(data)

    def require_unchanged(self, data: ClipData) -> None:
        """Check that features which were read are those that the run was planned with. Its key, the reuse of encoders
        and, with several workers, equal batches depend on it.

        Raises:
            UserError: they have changed.
        """
        for stream, features in data.features.items():
            if features.digests is not None and stream in self.fingerprints:
                found = hash_of_features(self.fingerprints[stream], features.digests)
                self._require(stream, found, f"The features of '{stream}' have")

    def _require(self, name: str, found: str, what: str) -> None:
        if found != self.inputs.get(name, found):
            raise UserError(
                f"{what} changed since run {self.name} was planned, by an extraction or another command that runs "
                "beside it: wait until that has ended, and start again."
            )

    def with_texts(self, data: ClipData) -> ClipData:
        """Add the tokens of the transcripts to clips, if the recipe fine-tunes a text backbone.

        Raises:
            UserError: the corpus or the transcripts have changed since the run was planned.
        """
        if (stream := self.recipe.transcript_stream) is None:
            return data
        from emi_ray.training.data.transcripts import with_tokens  # imports torch

        texts = read_transcripts(self.workspace.clips(), self.transcript_store)
        self._require(stream, hash_of_transcripts(texts, self.transcripts), "The transcripts have")
        return with_tokens(data, self.recipe, texts)

    def finished(self) -> dict[str, Any] | None:
        """Return the metrics of this run if it is finished; None if it is not, or had other settings or inputs."""
        return self.matching(self.earlier())

    def matching(self, metrics: dict[str, Any] | None) -> dict[str, Any] | None:
        """Return ``metrics`` if they are of a run with these settings and inputs, otherwise None."""
        return metrics if metrics is not None and metrics.get("run_key") == self.key else None

    def earlier(self) -> dict[str, Any] | None:
        """Return the metrics of the finished run of this name, whatever its settings and inputs; None without one."""
        try:
            metrics: dict[str, Any] = self.workspace.read_json(f"{self.folder}/{METRICS}")
        except FileNotFoundError:
            return None
        return metrics


def plan_run(
    workspace: Workspace,
    recipe: Recipe,
    config: WorkspaceConfig,
    seed: int,
    clips: pa.Table | None = None,
) -> RunPlan:
    """Find the inputs of a run and compute its key.

    The key depends on the recipe, the seed, the content of features and transcripts, the clips, and the labels with
    their ranges and order.

    Args:
        clips: the clips of the workspace, if they were read and checked already (:func:`require_labels`).

    Raises:
        UserError: there is no corpus, no label, no features for an encoder, or several stores of transcripts fit.
    """
    if clips is None:
        clips = require_labels(workspace)
    if recipe.finetuned:
        # The exact revision of the weights must be in the recipe before the key is computed.
        from emi_ray.training.data.transcripts import resolve_backbones  # imports torch

        recipe = resolve_backbones(recipe)
    if recipe.has_custom_code:
        from emi_ray.models.custom import resolve_custom  # imports torch

        recipe = resolve_custom(recipe)
    stores = find_stores(workspace, recipe, config)
    fingerprints = {modality: store.fingerprint for modality, store in stores.items()}
    transcripts = find_transcripts(workspace, config) if recipe.transcript_stream is not None else None
    inputs = read_inputs(clips, recipe, stores, transcripts)
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
    """Compute the hash of everything that determines a run; runs with equal keys have equal results."""
    # The title and the paper's score change no weights, so they are not part of the key.
    decided_by = recipe.model_dump(mode="json", exclude={"title", "paper"})
    return hash_of([ALGORITHM, decided_by, seed, dict(inputs)])


def hash_of(value: Any) -> str:
    """Return a hash of a JSON value as 12 hexadecimal digits."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=6).hexdigest()


@dataclass(frozen=True)
class Location:
    """Where a training ran: the address of the node and the ids of the assigned GPUs."""

    node: str
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True)
class EncoderJob:
    """A stage-1 encoder to train, as needed by the run ``plan``.

    Jobs with equal ``key`` give the same weights, even if they belong to different runs.
    """

    plan: RunPlan
    modality: EncoderName
    key: str


def encoder_jobs(plan: RunPlan) -> list[EncoderJob]:
    """Return the jobs for the stage-1 encoders of a run; none for joint training and late fusion."""
    recipe = plan.recipe
    # Joint training has no stage 1, and late fusion trains its members within the run.
    if recipe.fusion is not None and (recipe.stages == "joint" or recipe.fusion.type == "late"):
        return []
    return [EncoderJob(plan, modality, _key(plan, modality)) for modality in recipe.streams]


def _key(plan: RunPlan, modality: EncoderName) -> str:
    inputs = [plan.inputs["clips"], plan.inputs.get(modality), plan.recipe.split]
    return hash_of([encoder_settings(plan.recipe, modality, plan.seed), inputs])


def encoder_settings(recipe: Recipe, modality: EncoderName, seed: int) -> dict[str, Any]:
    """Return everything except the clips that determines an encoder stage, as plain values."""
    settings = recipe.encoders[modality]
    return {
        "algorithm": ALGORITHM,
        "modality": modality,
        # These two do not act in stage 1; the content of the features is hashed separately.
        "encoder": settings.model_dump(mode="json", exclude={"features", "fusion_lr_ratio"}),
        "training": recipe.training_of(settings).model_dump(mode="json", exclude={"seed"}),
        "objective": recipe.objective.model_dump(mode="json"),
        "seed": seed,
        # The cache outlives an update of torch, with which the weights would differ in the last digits.
        "torch": metadata.version("torch"),
    }
