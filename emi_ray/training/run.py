"""One run, from the workspace's features to the files of its folder. Knows no Ray."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from emi_ray.config import MediaSettings, WorkspaceConfig
from emi_ray.feature_store import FeatureStore
from emi_ray.models.speech_backbone import MAX_STEPS
from emi_ray.recipe import Recipe
from emi_ray.schema import Modality
from emi_ray.training.checkpoint import ModelDescription, versions
from emi_ray.training.clip_data import ClipData, read_clip_data
from emi_ray.training.encoder_cache import WorkspaceEncoderCache
from emi_ray.training.encoder_key import ALGORITHM
from emi_ray.training.feature_sources import find_stores
from emi_ray.training.loop import OnEpochEnd
from emi_ray.training.rows import DRAWN_SEED, draw_split, split_rows
from emi_ray.training.run_files import METRICS, write_run
from emi_ray.training.stages import Hooks, OnRunCheckpoint, train_recipe
from emi_ray.training.team import Team
from emi_ray.training.transcripts import read_transcripts, resolve_backbones, with_tokens
from emi_ray.workspace import Workspace


@dataclass(frozen=True)
class RunPlan:
    """What is to be trained, on which features. Cheap and picklable."""

    workspace: Workspace
    recipe: Recipe
    seed: int
    fingerprints: Mapping[Modality, str]
    media: MediaSettings
    key: str

    @property
    def folder(self) -> str:
        return f"runs/{self.recipe.name}/{self.seed}"

    @property
    def stores(self) -> dict[Modality, FeatureStore]:
        return {m: FeatureStore(self.workspace, m, name) for m, name in self.fingerprints.items()}

    def read_data(self) -> ClipData:
        """All clips, with everything that the recipe's encoders read."""
        data = read_clip_data(self.workspace, self.stores, max_steps=_sound_limits(self.recipe))
        if "text" not in self.recipe.finetuned:
            return data
        return with_tokens(data, self.recipe, read_transcripts(self.workspace, self.workspace.clips()))

    def finished(self) -> dict[str, Any] | None:
        """The metrics of this very run if it is finished; None if it is not, or ran with other settings."""
        path = f"{self.folder}/{METRICS}"
        found = self.workspace.read_json(path) if self.workspace.exists(path) else {}
        return found if found.get("run_key") == self.key else None


def _sound_limits(recipe: Recipe) -> dict[Modality, int]:
    """How many steps of sound speech backbones look at, so that no more are held in memory."""
    return {
        modality: recipe.encoders[modality].max_steps or MAX_STEPS for modality in recipe.finetuned - {"text"}
    }


def plan_run(workspace: Workspace, recipe: Recipe, config: WorkspaceConfig, seed: int) -> RunPlan:
    """Find the features and compute the run's key, which changes with the recipe, the seed, the features, the
    clips and their labels.

    Raises:
        UserError: a modality has no features, or there is no corpus.
    """
    recipe = resolve_backbones(recipe)
    stores = find_stores(workspace, recipe, config)
    clips = workspace.clips()
    digest = hashlib.blake2b(digest_size=6)
    for name in ["clip_id", "split", *clips.column_names[clips.column_names.index("split") + 1 :]]:
        digest.update(repr(clips[name].to_pylist()).encode())
    for store in stores.values():
        digest.update("\n".join([store.fingerprint, *sorted(store.clip_ids())]).encode())
    decided_by = recipe.model_dump(mode="json", exclude={"title", "paper"})
    digest.update(json.dumps([ALGORITHM, decided_by, seed], sort_keys=True).encode())
    fingerprints = {modality: store.fingerprint for modality, store in stores.items()}
    return RunPlan(workspace, recipe, seed, fingerprints, config.media, digest.hexdigest())


def execute_run(
    plan: RunPlan,
    *,
    device: torch.device | None = None,
    on_epoch_end: OnEpochEnd | None = None,
    on_checkpoint: OnRunCheckpoint | None = None,
    resume: Mapping[str, Any] | None = None,
    reuse_encoders: bool = True,
) -> dict[str, Any]:
    """Read, train, predict, write; returns the metrics.

    Under ``torch.distributed`` every worker calls this, and the first one writes.

    Raises:
        UserError: the labels or the features do not allow training.
    """
    started = time.perf_counter() - (resume or {}).get("run_seconds", 0.0)

    def checkpoint(build: Callable[[], dict[str, Any]], stage_ended: bool) -> None:
        if on_checkpoint is not None:
            seconds = time.perf_counter() - started
            on_checkpoint(lambda: {**build(), "run_seconds": seconds}, stage_ended)

    data = plan.read_data()
    rows = split_rows(data, plan.recipe.split)
    split = plan.recipe.split
    if split != "official" and Team.current().rank == 0:
        plan.workspace.write_table(f"splits/{split}-{DRAWN_SEED}.parquet", draw_split(data, split))
    cache = WorkspaceEncoderCache(plan.workspace, reuse_encoders)
    hooks = Hooks(on_epoch_end, checkpoint, resume, cache)
    trained = train_recipe(plan.recipe, data, rows, seed=plan.seed, device=device, hooks=hooks)
    if Team.current().rank != 0:
        return {}
    extractors = {modality: store.describe() for modality, store in plan.stores.items()}
    description = ModelDescription(
        recipe=plan.recipe,
        seed=plan.seed,
        labels=data.labels,
        extractors=extractors,
        media=plan.media,
        versions=versions(),
        run_key=plan.key,
    )
    return write_run(plan.workspace, plan.folder, trained, data, description, started)
