"""The papers' figures, and beside which runs they may stand: those on the features, the split and the corpus that a
row names."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from emi_ray.extractors import EXTRACTORS
from emi_ray.recipe import Recipe, load_recipe, recipe_names
from emi_ray.schema import EMOTIONS, Modality

PAPER_FEATURES: Mapping[Modality, str] = {
    "text": "gte-base",
    "audio": "wav2vec2-emotion",
    "vision": "dinov2-face",
    "motion": "openface",
}
"""Extractors of tables 4 and 5 of the paper; its "custom wav2vec 2.0" is most likely the one that is named here."""

PAPER_CORPUS = "vidmimic2"
PAPER_CLIPS = {"train": 8072, "val": 4588}

LABEL_SCORES: Mapping[str, tuple[float, ...]] = {
    "text": (0.484, 0.390, 0.376, 0.426, 0.363, 0.333),
    "audio": (0.405, 0.347, 0.320, 0.351, 0.350, 0.328),
    "vision": (0.049, 0.214, 0.136, 0.082, 0.203, 0.237),
    "motion": (-0.007, 0.210, 0.099, 0.046, 0.195, 0.240),
}
"""Table 4 of the paper: by modality, r of each of :data:`emi_ray.schema.EMOTIONS`."""

OTHER_FEATURES = "on other features"
OTHER_CLIPS = "on other clips"
OTHER_SPLIT = "on another split"
OTHER_SETTINGS = "with other settings"
UNKNOWN_FEATURES = "the paper does not say all its features"


@dataclass(frozen=True)
class Basis:
    """What a run's score rests on.

    Attributes:
        recipe: resolved, as the run trained it.
        extractors: by modality, what its features were made by, as in ``model.json``.
        corpus_kind: as in ``emi_ray.yaml``.
        clips: ``clips.parquet``.
    """

    recipe: Recipe
    extractors: Mapping[str, Mapping[str, Any]]
    corpus_kind: str | None
    clips: pa.Table | None


def paper_score(recipe: str) -> float | None:
    """Mean validation Pearson that a paper reports of a shipped recipe's system."""
    shipped = shipped_recipe(recipe)
    return shipped.paper.val_pearson if shipped and shipped.paper else None


def differences_from_paper(basis: Basis) -> list[str]:
    """Why a paper's figure for the recipe may not stand beside a run; empty where it may."""
    shipped = shipped_recipe(basis.recipe.name)
    if shipped is None:
        return [OTHER_SETTINGS]
    reasons = [OTHER_FEATURES] if _other_features(shipped, basis) else []
    if shipped.paper and shipped.paper.source and not shipped.finetuned:
        reasons.append(UNKNOWN_FEATURES)
    if not _is_papers_corpus(basis):
        reasons.append(OTHER_CLIPS)
    if basis.recipe.split != shipped.split:
        reasons.append(OTHER_SPLIT)
    if _settings(basis.recipe) != _settings(shipped):
        reasons.append(OTHER_SETTINGS)
    return reasons


@cache
def shipped_recipe(name: str) -> Recipe | None:
    """The recipe of that name as it ships; None for others."""
    return load_recipe(name) if name in recipe_names() else None


def _other_features(shipped: Recipe, basis: Basis) -> bool:
    for modality in shipped.modalities:
        if modality in shipped.finetuned:
            own, read = shipped.encoders[modality], basis.recipe.encoders.get(modality)
            if read is None or read.backbone != own.backbone:
                return True
            continue
        wanted = shipped.encoders[modality].features or PAPER_FEATURES[modality]
        made_by = basis.extractors.get(modality, {})
        if made_by.get("extractor") != wanted or not _has_its_weights(wanted, made_by.get("settings", {})):
            return True
    return False


def _has_its_weights(extractor: str, settings: Mapping[str, Any]) -> bool:
    """Whether an extractor ran on the weights that it is named for, not on others that were set."""
    field = EXTRACTORS[extractor].Settings.model_fields.get("weights")
    return field is None or settings.get("weights", field.default) == field.default


def _is_papers_corpus(basis: Basis) -> bool:
    if basis.corpus_kind != PAPER_CORPUS or basis.clips is None:
        return False
    counts = {split: pc.sum(pc.equal(basis.clips["split"], split)).as_py() for split in PAPER_CLIPS}
    return counts == PAPER_CLIPS and set(EMOTIONS) <= set(basis.clips.column_names)


def _settings(recipe: Recipe) -> dict[str, Any]:
    """What decides a trained system, but for its features and its seed."""
    values = recipe.model_dump(mode="json", exclude={"name", "title", "paper"})
    values["training"].pop("seed")
    for encoder in values["encoders"].values():
        for name in ("features", "backbone", "backbone_config", "backbone_revision"):
            encoder.pop(name, None)
    return values
