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
    from emi_ray.errors import ClipError, EmiRayError, UserError
    from emi_ray.extractors.base import Extractor, Features
    from emi_ray.features import FeatureSet, read_features
    from emi_ray.workspace import Workspace

__version__ = "0.1.0"

_HOME = {
    "Workspace": "emi_ray.workspace",
    "init": "emi_ray.api.data",
    "extract": "emi_ray.api.data",
    "read_features": "emi_ray.features",
    "FeatureSet": "emi_ray.features",
    "train": "emi_ray.api.training",
    "tune": "emi_ray.api.training",
    "evaluate": "emi_ray.api.results",
    "predict": "emi_ray.api.results",
    "load_model": "emi_ray.api.results",
    "Model": "emi_ray.api.results",
    "compare": "emi_ray.api.results",
    "report": "emi_ray.api.results",
    "Extractor": "emi_ray.extractors.base",
    "Features": "emi_ray.extractors.base",
    "EmiRayError": "emi_ray.errors",
    "UserError": "emi_ray.errors",
    "ClipError": "emi_ray.errors",
}

__all__ = [
    "ClipError",
    "EmiRayError",
    "Extractor",
    "FeatureSet",
    "Features",
    "Model",
    "UserError",
    "Workspace",
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
