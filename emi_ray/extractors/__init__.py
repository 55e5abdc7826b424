"""Extractors: clip → features.

``EXTRACTORS`` lists all built-in names. Extractors of users are named ``module:Class``.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import BaseModel

from emi_ray.config import ExtractorSettings, MediaSettings
from emi_ray.custom_code import source_digest
from emi_ray.errors import UserError, choices
from emi_ray.extractors.base import Extractor, Features, fingerprint
from emi_ray.extractors.builtin.audio import Prosody
from emi_ray.extractors.builtin.motion import Flow, MotionSummary
from emi_ray.extractors.builtin.text import HashedNgrams
from emi_ray.extractors.builtin.vision import Appearance
from emi_ray.extractors.builtin.waveform import Sound
from emi_ray.extractors.custom import is_own, load_own, registered
from emi_ray.extractors.external.egemaps import Egemaps
from emi_ray.extractors.external.openface import OpenFace
from emi_ray.extractors.pretrained.audio import HfAudio, Hubert, Wav2Vec2, Wav2Vec2Emotion, WavLM
from emi_ray.extractors.pretrained.text import BertLarge, GteBase, GteBaseTokens, HfText, MiniLm
from emi_ray.extractors.pretrained.vision import Dinov2Face, Dinov2Frame, HfVision, VitFace
from emi_ray.extractors.pretrained.whisper import Whisper, WhisperSettings
from emi_ray.media.yunet import settle_media
from emi_ray.schema import Modality, Need
from emi_ray.settings import AnySettings, validate

EXTRACTORS: dict[str, type[Extractor]] = {
    extractor.NAME: extractor
    for extractor in (
        *(HashedNgrams, GteBase, GteBaseTokens, BertLarge, MiniLm, HfText),
        *(Prosody, Egemaps, Sound, Wav2Vec2, WavLM, Hubert, Wav2Vec2Emotion, HfAudio),
        *(Appearance, Dinov2Face, Dinov2Frame, VitFace, HfVision),
        *(Flow, MotionSummary, OpenFace),
    )
}


@dataclass(frozen=True)
class ExtractorSpec:
    """A named extractor with validated settings. It is cheap to create, picklable, and has not loaded any weights."""

    kind: type[Extractor]
    settings: BaseModel
    media: MediaSettings
    transcriber: "TranscriberSpec | None" = None
    name: str = ""
    """Name in the settings; ``module:Class`` for an extractor of the user."""

    def build(self) -> Extractor:
        return self.kind(self.settings)

    @property
    def needs(self) -> frozenset[Need]:
        return self.kind.needs(self.settings)

    def check(self) -> list[str]:
        """Return the problems that would make a run on this machine fail."""
        return self.kind.check(self.settings)

    @cached_property
    def identity(self) -> dict[str, Any]:
        identity = self.kind.identity(self.settings, self.media)
        if self.transcriber:
            identity = {**identity, "transcriber": self.transcriber.identity}
        if is_own(self.name):
            code = source_digest(self.kind, f"version {self.kind.VERSION}")
            identity = {**identity, "extractor": self.name, "code": code}
        return identity

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.identity)


@dataclass(frozen=True)
class TranscriberSpec:
    """A speech recogniser with validated settings. It has not loaded any weights."""

    settings: WhisperSettings
    media: MediaSettings

    def build(self) -> Whisper:
        return Whisper(self.settings)

    @cached_property
    def identity(self) -> dict[str, Any]:
        return Whisper.identity(self.settings, self.media)

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.identity)


def specify(
    modality: Modality,
    wanted: ExtractorSettings,
    media: MediaSettings,
    transcriber: TranscriberSpec | None = None,
    dtype: str | None = None,
) -> ExtractorSpec:
    """Validate a configured extractor, and resolve the settings that are left open.

    Args:
        dtype: the precision that ``dtype: auto`` means where the extractor will run; by default, what it
            means on this machine.
        transcriber: recogniser of the text of clips without a transcript; it is part of a text extractor's
            identity.

    Raises:
        UserError: as :func:`check_settings`, or the weights are not available.
    """
    kind, settings = check_settings(modality, wanted)
    settings = _with_dtype(settings, dtype)
    heard = transcriber if modality == "text" else None
    resolved = kind.resolve(settings)
    if "faces" in kind.needs(resolved):
        media = settle_media(media)
    return ExtractorSpec(kind, resolved, media, heard, wanted.name)


def specify_transcriber(
    wanted: ExtractorSettings, media: MediaSettings, dtype: str | None = None
) -> TranscriberSpec:
    """Validate the configured speech recogniser, and resolve the settings that are left open; see :func:`specify`.

    Raises:
        UserError: the name is unknown, a setting is invalid, or the weights are not available.
    """
    settings = check_transcriber_settings(wanted)
    return TranscriberSpec(Whisper.resolve(_with_dtype(settings, dtype)), media)


def check_transcriber_settings(wanted: ExtractorSettings) -> WhisperSettings:
    """Return the validated settings of the configured speech recogniser. Weights are not looked up.

    Raises:
        UserError: the name is unknown, or a setting is invalid.
    """
    if wanted.name != Whisper.NAME:
        raise UserError(f"transcriber.name = '{wanted.name}': {choices(wanted.name, [Whisper.NAME])}")
    return validate(WhisperSettings, wanted.settings, "transcriber.settings")


def wants_dtype(settings: BaseModel) -> bool:
    """Return whether these settings leave the precision open."""
    return getattr(settings, "dtype", None) == "auto"


def _with_dtype(settings: AnySettings, dtype: str | None) -> AnySettings:
    return settings.model_copy(update={"dtype": dtype}) if dtype and wants_dtype(settings) else settings


def check_settings(modality: Modality, wanted: ExtractorSettings) -> tuple[type[Extractor], BaseModel]:
    """Return the extractor class of a name, and its validated settings. Weights are not looked up.

    Raises:
        UserError: no extractor of that name serves the modality, or one of its settings is invalid.
    """
    where = f"extractors.{modality}"
    kind = find_extractor(wanted.name, where)
    if kind is None or modality != kind.MODALITY:
        serving = [name for name, each in {**EXTRACTORS, **_entered()}.items() if modality == each.MODALITY]
        what = f"is for {kind.MODALITY}. " if kind is not None else ""
        hint = choices(wanted.name, serving)
        raise UserError(f"{where}.name = '{wanted.name}': {what}{hint} Name your own extractor module:Class.")
    return kind, validate(kind.Settings, wanted.settings, f"{where}.settings")


def find_extractor(name: str, where: str = "extractor") -> type[Extractor] | None:
    """Return the extractor class of a name; None if there is none.

    The name is a key of ``EXTRACTORS``, an entry point of an installed package, or ``module:Class``.

    Raises:
        UserError: ``module:Class`` cannot be imported or is not an extractor. The message begins with ``where``.
    """
    if name in EXTRACTORS:
        return EXTRACTORS[name]
    return load_own(name, where) if is_own(name) else _entered().get(name)


def _entered() -> dict[str, type[Extractor]]:
    return {name: load_own(target, f"entry point {name}") for name, target in registered().items()}


__all__ = [
    "EXTRACTORS",
    "Extractor",
    "ExtractorSpec",
    "Features",
    "TranscriberSpec",
    "Whisper",
    "check_settings",
    "check_transcriber_settings",
    "find_extractor",
    "specify",
    "specify_transcriber",
    "wants_dtype",
]
