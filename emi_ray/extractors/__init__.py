"""Clip → features. ``EXTRACTORS`` is the one table of names."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import BaseModel

from emi_ray.config import ExtractorSettings, MediaSettings, validate
from emi_ray.errors import UserError, choices
from emi_ray.extractors.audio import Prosody
from emi_ray.extractors.base import Extractor, Features, fingerprint
from emi_ray.extractors.motion import Flow, MotionSummary
from emi_ray.extractors.text import HashedNgrams
from emi_ray.extractors.vision import Appearance
from emi_ray.schema import Modality

EXTRACTORS: dict[str, type[Extractor]] = {
    extractor.NAME: extractor for extractor in (HashedNgrams, Prosody, Appearance, Flow, MotionSummary)
}


@dataclass(frozen=True)
class ExtractorSpec:
    """A named extractor with checked settings: cheap, picklable, not yet built."""

    kind: type[Extractor]
    settings: BaseModel
    media: MediaSettings

    def build(self) -> Extractor:
        return self.kind(self.settings)

    @cached_property
    def identity(self) -> dict[str, Any]:
        return self.kind.identity(self.settings, self.media)

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.identity)


def specify(modality: Modality, wanted: ExtractorSettings, media: MediaSettings) -> ExtractorSpec:
    """Check a configured extractor.

    Raises:
        UserError: no extractor of that name serves the modality, or a setting of it is wrong.
    """
    where = f"extractors.{modality}"
    serving = [name for name, kind in EXTRACTORS.items() if modality == kind.MODALITY]
    if wanted.name not in serving:
        raise UserError(f"{where}.name = '{wanted.name}': {choices(wanted.name, serving)}")
    kind = EXTRACTORS[wanted.name]
    return ExtractorSpec(kind, validate(kind.Settings, wanted.settings, f"{where}.settings"), media)


__all__ = ["EXTRACTORS", "Extractor", "ExtractorSpec", "Features", "specify"]
