"""Scores that papers report, and the conditions under which a run is comparable with them: the same features, split,
corpus and settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from emi_ray.extractors import EXTRACTORS
from emi_ray.recipe.loading import load_recipe, recipe_names
from emi_ray.recipe.schema import Recipe
from emi_ray.schema import EMOTIONS, Modality

PAPER_FEATURES: Mapping[Modality, str] = {
    "text": "gte-base",
    "audio": "wav2vec2-emotion",
    "vision": "dinov2-face",
    "motion": "openface",
}
"""Extractors of tables 4 and 5 of the paper. The paper's "custom wav2vec 2.0" is most likely wav2vec2-emotion."""

PAPER_CORPUS = "vidmimic2"
PAPER_CLIPS = {"train": 8072, "val": 4588}

LABEL_SCORES: Mapping[str, tuple[float, ...]] = {
    "text": (0.484, 0.390, 0.376, 0.426, 0.363, 0.333),
    "audio": (0.405, 0.347, 0.320, 0.351, 0.350, 0.328),
    "vision": (0.049, 0.214, 0.136, 0.082, 0.203, 0.237),
    "motion": (-0.007, 0.210, 0.099, 0.046, 0.195, 0.240),
}
"""Table 4 of the paper: Pearson's r of each label of :data:`emi_ray.schema.EMOTIONS`, by modality."""

_RESOLVED = frozenset({"revision", "dtype", "binary", "time_limit_s"})
"""Settings of extractors that a run resolves, or that depend on the machine: they do not define other features."""

OTHER_FEATURES = "on other features"
OTHER_CLIPS = "on other clips"
OTHER_SPLIT = "on another split"
OTHER_SETTINGS = "with other settings"
UNKNOWN_FEATURES = "the paper does not say all its features"


@dataclass(frozen=True)
class Basis:
    """The conditions of a run's score.

    Attributes:
        recipe: the resolved recipe of the run.
        extractors: descriptions of the extractors of its features, by encoder, as in ``model.json``.
        corpus_kind: kind of the corpus, as in ``emi_ray.yaml``.
        clips: content of ``clips.parquet``.
    """

    recipe: Recipe
    extractors: Mapping[str, Mapping[str, Any]]
    corpus_kind: str | None
    clips: pa.Table | None


def paper_score(recipe: str) -> float | None:
    """Return the mean validation Pearson correlation that a paper reports for a shipped recipe, or None."""
    shipped = shipped_recipe(recipe)
    return shipped.paper.val_pearson if shipped and shipped.paper else None


def differences_from_paper(basis: Basis) -> list[str]:
    """Return the reasons why a run is not comparable with the paper's score of its recipe; empty if it is."""
    shipped = shipped_recipe(basis.recipe.name)
    if shipped is None:
        return [OTHER_SETTINGS]
    reasons = [OTHER_FEATURES] if _other_features(shipped, basis) else []
    # source names another paper than the one whose tables are reproduced; it does not say all its features.
    paper = shipped.paper
    if paper and (not paper.says_features or (paper.source and not shipped.finetuned)):
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
    """Return the shipped recipe of that name, or None if there is none."""
    return load_recipe(name) if name in recipe_names() else None


def _other_features(shipped: Recipe, basis: Basis) -> bool:
    for modality in shipped.modalities:
        if modality in shipped.finetuned:
            shipped_encoder, read = shipped.encoders[modality], basis.recipe.encoders.get(modality)
            if read is None or read.backbone != shipped_encoder.backbone:
                return True
            continue
        # A recipe that names no features stands for those of the paper.
        wanted = shipped.encoders[modality].features or PAPER_FEATURES[modality]
        made_by = basis.extractors.get(modality, {})
        if made_by.get("extractor") != wanted or not _has_its_defaults(wanted, made_by.get("settings", {})):
            return True
    return False


def _has_its_defaults(extractor: str, settings: Mapping[str, Any]) -> bool:
    """Return whether an extractor ran with its default weights, layer, pooling and the like."""
    fields = EXTRACTORS[extractor].Settings.model_fields
    compared = fields.keys() & settings.keys() - _RESOLVED
    return all(settings[name] == fields[name].default for name in compared)


def _is_papers_corpus(basis: Basis) -> bool:
    if basis.corpus_kind != PAPER_CORPUS or basis.clips is None:
        return False
    counts = {split: pc.sum(pc.equal(basis.clips["split"], split)).as_py() for split in PAPER_CLIPS}
    return counts == PAPER_CLIPS and set(EMOTIONS) <= set(basis.clips.column_names)


def _settings(recipe: Recipe) -> dict[str, Any]:
    """Return the settings of a recipe that influence training, except for features and seed."""
    values = recipe.model_dump(mode="json", exclude={"name", "title", "paper"})
    values["training"].pop("seed")
    for encoder in values["encoders"].values():
        for name in ("features", "backbone", "backbone_config", "backbone_revision"):
            encoder.pop(name, None)
    return values
