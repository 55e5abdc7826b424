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
from emi_ray.media import MEDIA_VERSION
from emi_ray.media.clip import DecodedClip
from emi_ray.schema import Modality, Need


@dataclass(frozen=True)
class Features:
    """What one extractor says of one clip: ``values`` (T, feature_dim) float32 or float16, T ≥ 1;
    ``timestamps_s`` (T,) float32, the middle of each step; ``extras`` name → (T,) float32.

    ``notes`` counts what a user may want to know: ``text_truncated``, ``steps_dropped``.
    """

    values: np.ndarray
    timestamps_s: np.ndarray
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)
    notes: Mapping[str, int] = field(default_factory=dict)


class Extractor(ABC):
    """Base of all extractors.

    A subclass sets the class attributes and builds its state in ``__init__(settings)``, where ``settings`` is
    an instance of its own ``Settings``. ``VERSION`` grows whenever its output changes for the same settings.
    ``LICENCE`` is that of the code or of the default weights; ``DIM`` is the feature size under default
    settings, None where the weights decide.
    """

    NAME: ClassVar[str]
    MODALITY: ClassVar[Modality]
    NEEDS: ClassVar[frozenset[Need]]
    VERSION: ClassVar[int] = 1
    EXTRAS: ClassVar[tuple[str, ...]] = ()
    USES_GPU: ClassVar[bool] = False
    LICENCE: ClassVar[str] = "Apache-2.0"
    DIM: ClassVar[int | None] = None
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

    def use_less_memory(self) -> bool:
        """Work in smaller steps from now on, because memory ran out; False where that is not possible."""
        return False

    @classmethod
    def needs(cls, settings: Any) -> frozenset[Need]:
        """The inputs that these settings ask for; ``NEEDS`` unless a setting chooses."""
        return cls.NEEDS

    @classmethod
    def resolve(cls, settings: Any) -> Any:
        """Settle once, where the run is started, what ``settings`` leave open (a revision, ``dtype: auto``).

        Raises:
            UserError: it cannot be settled.
        """
        return settings

    @classmethod
    def check(cls, settings: Any) -> list[str]:
        """What would make a run on this machine fail; one sentence each, with the remedy. For ``doctor``."""
        return []

    @classmethod
    def identity(cls, settings: BaseModel, media: MediaSettings) -> dict[str, Any]:
        """Everything that decides the output: what a fingerprint is a hash of.

        ``settings`` in it can be given again to get the same extractor. Names of settings that only say where
        something lies stand under ``not_deciding``; the fingerprint leaves these out.
        """
        return {
            "extractor": cls.NAME,
            "modality": cls.MODALITY,
            "version": cls.VERSION,
            "settings": settings.model_dump(mode="json"),
            "media": media.deciding(cls.needs(settings)),
            "media_version": MEDIA_VERSION,
        }


def fingerprint(identity: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits of the BLAKE2 hash of an identity, less what it lists as ``not_deciding``."""
    deciding = dict(identity)
    hidden = deciding.pop("not_deciding", ())
    if hidden:
        deciding["settings"] = {k: v for k, v in deciding["settings"].items() if k not in hidden}
    canonical = json.dumps(deciding, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(canonical.encode(), digest_size=6).hexdigest()
