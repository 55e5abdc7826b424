"""The interface of extractors: clip → features. An extractor is built once per actor and does not use Ray."""

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
    """The features that one extractor computed from one clip.

    Attributes:
        values: (T, feature_dim) float32 or float16, T ≥ 1.
        timestamps_s: (T,) float32, the middle of each step in seconds.
        extras: name → (T,) float32, further values per step.
        remarks: sentences on what was cut, dropped or assumed, for the summary of a run. Those that differ only in
            numbers are counted together.
    """

    values: np.ndarray
    timestamps_s: np.ndarray
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)
    remarks: Sequence[str] = ()


class Extractor(ABC):
    """Base class of all extractors.

    A subclass sets the class attributes, and builds its state in ``__init__(settings)``, where ``settings`` is an
    instance of its own ``Settings``. Increase ``VERSION`` whenever the output changes for the same settings.
    ``LICENCE`` is that of the code or of the default weights; ``DIM`` is the feature size with default settings,
    None if the weights decide it.
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
        """Compute the features of each clip, in order. Every clip has all inputs in ``NEEDS``.

        Raises:
            ClipError: a clip cannot be processed. The caller then repeats the clips one by one.
        """

    def use_less_memory(self) -> bool:
        """Work in smaller steps from now on, because memory ran out. Returns False if that is not possible."""
        return False

    @classmethod
    def needs(cls, settings: Any) -> frozenset[Need]:
        """Return the inputs that these settings need; ``NEEDS`` unless a setting changes them."""
        return cls.NEEDS

    @classmethod
    def resolve(cls, settings: Any) -> Any:
        """Resolve the settings that are left open (a revision, ``dtype: auto``), once, where the run is started.

        Raises:
            UserError: a setting cannot be resolved.
        """
        return settings

    @classmethod
    def check(cls, settings: Any) -> list[str]:
        """Return the problems that would make a run on this machine fail, a sentence each with the remedy.

        For ``doctor``.
        """
        return []

    @classmethod
    def identity(cls, settings: BaseModel, media: MediaSettings) -> dict[str, Any]:
        """Return everything that determines the output. The fingerprint is a hash of it.

        ``settings`` in it reproduces the same extractor. Settings that only say where something is stored are named
        under ``not_deciding``; the fingerprint ignores them.
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
    """Return 12 hexadecimal digits of the BLAKE2 hash of an identity, without the settings under ``not_deciding``."""
    deciding = dict(identity)
    hidden = deciding.pop("not_deciding", ())
    if hidden:
        deciding["settings"] = {k: v for k, v in deciding["settings"].items() if k not in hidden}
    canonical = json.dumps(deciding, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(canonical.encode(), digest_size=6).hexdigest()
