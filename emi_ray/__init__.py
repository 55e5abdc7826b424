"""Predict six emotional-mimicry intensities from raw clips of talking faces, on one machine or a Ray cluster.

The names below are the public API; :mod:`emi_ray.api` describes them. They are imported when they are first used.
All other modules may change without notice.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emi_ray.api.data import extract, init
    from emi_ray.api.results import Model, compare, evaluate, load_model, predict, report
    from emi_ray.api.training import train, tune
    from emi_ray.comparison import Comparison, Pair, System
    from emi_ray.config import WorkspaceConfig
    from emi_ray.corpus.listing import Finding
    from emi_ray.corpus.manifest import Corpus
    from emi_ray.errors import ClipError, EmiRayError, UserError
    from emi_ray.extraction.pools import Measurement, Pool
    from emi_ray.extraction.summary import ActorSummary, ExtractionSummary, StageSummary
    from emi_ray.extractors.base import Extractor, Features
    from emi_ray.features import FeatureSet, read_features
    from emi_ray.media.clip import DecodedClip, Faces, Frames, Waveform
    from emi_ray.prediction import Predictions
    from emi_ray.recipe.schema import Recipe
    from emi_ray.recipe.sections import (
        EncoderSettings,
        FusionSettings,
        ObjectiveSettings,
        PaperResult,
        TrainingSettings,
    )
    from emi_ray.resampling import Difference
    from emi_ray.results.predictions import ScoredPredictions
    from emi_ray.results.studies import ConfirmedTrial, FrontPoint, ReportedScores, StudyResult
    from emi_ray.schema import Label
    from emi_ray.settings import Settings
    from emi_ray.training.runs import RunResult
    from emi_ray.workspace import Workspace

__version__ = "0.1.0"

_MODULES = {
    "emi_ray.api.data": ("extract", "init"),
    "emi_ray.api.results": ("Model", "compare", "evaluate", "load_model", "predict", "report"),
    "emi_ray.api.training": ("train", "tune"),
    "emi_ray.comparison": ("Comparison", "Pair", "System"),
    "emi_ray.config": ("WorkspaceConfig",),
    "emi_ray.corpus.listing": ("Finding",),
    "emi_ray.corpus.manifest": ("Corpus",),
    "emi_ray.errors": ("ClipError", "EmiRayError", "UserError"),
    "emi_ray.extraction.pools": ("Measurement", "Pool"),
    "emi_ray.extraction.summary": ("ActorSummary", "ExtractionSummary", "StageSummary"),
    "emi_ray.extractors.base": ("Extractor", "Features"),
    "emi_ray.features": ("FeatureSet", "read_features"),
    "emi_ray.media.clip": ("DecodedClip", "Faces", "Frames", "Waveform"),
    "emi_ray.prediction": ("Predictions",),
    "emi_ray.recipe.sections": (
        "EncoderSettings",
        "FusionSettings",
        "ObjectiveSettings",
        "PaperResult",
        "TrainingSettings",
    ),
    "emi_ray.recipe.schema": ("Recipe",),
    "emi_ray.resampling": ("Difference",),
    "emi_ray.results.predictions": ("ScoredPredictions",),
    "emi_ray.schema": ("Label",),
    "emi_ray.settings": ("Settings",),
    "emi_ray.training.runs": ("RunResult",),
    "emi_ray.results.studies": ("ConfirmedTrial", "FrontPoint", "ReportedScores", "StudyResult"),
    "emi_ray.workspace": ("Workspace",),
}
"""The public names by the module that defines them."""

_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "ActorSummary",
    "ClipError",
    "Comparison",
    "ConfirmedTrial",
    "Corpus",
    "DecodedClip",
    "Difference",
    "EmiRayError",
    "EncoderSettings",
    "ExtractionSummary",
    "Extractor",
    "Faces",
    "FeatureSet",
    "Features",
    "Finding",
    "Frames",
    "FrontPoint",
    "FusionSettings",
    "Label",
    "Measurement",
    "Model",
    "ObjectiveSettings",
    "Pair",
    "PaperResult",
    "Pool",
    "Predictions",
    "Recipe",
    "ReportedScores",
    "RunResult",
    "ScoredPredictions",
    "Settings",
    "StageSummary",
    "StudyResult",
    "System",
    "TrainingSettings",
    "UserError",
    "Waveform",
    "Workspace",
    "WorkspaceConfig",
    "compare",
    "evaluate",
    "extract",
    "init",
    "load_model",
    "predict",
    "read_features",
    "report",
    "train",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'emi_ray' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
