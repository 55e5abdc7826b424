"""What an extractor is: clip → features, built once per actor, and nothing of Ray inside."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel

from emi_ray.config import MediaSettings
from emi_ray.media.clip import DecodedClip
from emi_ray.schema import Modality, Need


@dataclass(frozen=True)
class Features:
    """What one extractor says of one clip: ``values`` (T, feature_dim) float32 or float16, T ≥ 1;
    ``timestamps_s`` (T,) float32, the middle of each step; ``extras`` name → (T,) float32."""

    values: np.ndarray
    timestamps_s: np.ndarray
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)


class Extractor(ABC):
    """Base of all extractors.

    A subclass sets the class attributes and builds its state in ``__init__(settings)``, where ``settings`` is
    an instance of its own ``Settings``. ``VERSION`` grows whenever its output changes for the same settings.
    """

    NAME: ClassVar[str]
    MODALITY: ClassVar[Modality]
    NEEDS: ClassVar[frozenset[Need]]
    VERSION: ClassVar[int] = 1
    EXTRAS: ClassVar[tuple[str, ...]] = ()
    USES_GPU: ClassVar[bool] = False
    Settings: ClassVar[type[BaseModel]]

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    @property
    @abstractmethod
    def feature_dim(self) -> int:
        """Size of one step's feature vector."""

    @abstractmethod
    def extract(self, clips: Sequence[DecodedClip]) -> list[Features]:
        """Features of each clip, in order. Every clip has all of ``NEEDS``.

        Raises:
            ClipError: a clip cannot be processed; the caller tries the others without it.
        """

    @classmethod
    def identity(cls, settings: BaseModel, media: MediaSettings) -> dict[str, Any]:
        """Everything that decides the output: what a fingerprint is a hash of."""
        return {
            "extractor": cls.NAME,
            "modality": cls.MODALITY,
            "version": cls.VERSION,
            "settings": settings.model_dump(mode="json"),
            "media": media.deciding(cls.NEEDS),
        }


def fingerprint(identity: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits of the BLAKE2 hash of an identity."""
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(canonical.encode(), digest_size=6).hexdigest()
