"""Audio extractor: the extended Geneva Minimalistic Acoustic Parameter Set (eGeMAPS), computed by openSMILE."""

from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, Field

from emi_ray.config import MediaSettings
from emi_ray.errors import ClipError, UserError
from emi_ray.extractors.base import Extractor, Features
from emi_ray.extractors.builtin.sound.checks import check_sound
from emi_ray.media.clip import DecodedClip, Waveform
from emi_ray.settings import Settings

SAMPLE_RATE_HZ = 16_000
PACKAGE = "opensmile"
MISSING = (
    f"The extractor egemaps needs the package {PACKAGE}, which is licensed for non-commercial use only: "
    "pip install 'emi_ray[egemaps]'."
)
_SHORTEST_S = 0.1
"""Shorter audio is padded with silence: openSMILE returns nothing for audio below its longest window of 60 ms."""

_WINDOW_S = 0.02

_SIZES = {"steps": 25, "clip": 88}


class EgemapsSettings(Settings):
    """Whether steps or the whole clip are described."""

    level: Literal["steps", "clip"] = Field(
        "steps", description="steps: 25 descriptors each 10 ms; clip: 88 functionals of them, one step a clip"
    )


class Egemaps(Extractor):
    """eGeMAPS v02 of 16 kHz audio (Eyben et al. 2016, "The Geneva Minimalistic Acoustic Parameter Set").

    ``level: steps`` gives its 25 low-level descriptors each 10 ms (loudness, spectral balance and slopes, MFCC 1 to
    4, pitch in semitones above 27.5 Hz, jitter, shimmer, harmonics-to-noise ratio, formants). Descriptors of the
    voice are zero in unvoiced steps. ``level: clip`` gives its 88 functionals over the clip, zero if no step is
    voiced. Values have the units of the set (formants in Hz), so set ``standardise: true`` in the recipe.

    openSMILE is free for non-commercial use only; its package is an extra, ``pip install 'emi_ray[egemaps]'``.
    """

    NAME = "egemaps"
    MODALITY = "audio"
    NEEDS = frozenset({"waveform"})
    DIM = _SIZES["steps"]
    LICENCE = "openSMILE: non-commercial"
    Settings = EgemapsSettings

    def __init__(self, settings: EgemapsSettings) -> None:
        super().__init__(settings)
        import opensmile  # an optional dependency that takes seconds to import

        levels = opensmile.FeatureLevel
        self._smile = opensmile.Smile(
            feature_set=opensmile.FeatureSet.eGeMAPSv02,
            feature_level=levels.Functionals if settings.level == "clip" else levels.LowLevelDescriptors,
        )

    @property
    def feature_dim(self) -> int:
        return _SIZES[self.settings.level]

    def feature_names(self) -> list[str]:
        """Return openSMILE's names, such as ``Loudness_sma3``."""
        return list(self._smile.feature_names)

    @classmethod
    def resolve(cls, settings: EgemapsSettings) -> EgemapsSettings:
        if problems := cls.check(settings):
            raise UserError(problems[0])
        return settings

    @classmethod
    def check(cls, settings: Any) -> list[str]:
        return [] if find_spec(PACKAGE) else [MISSING]

    @classmethod
    def identity(cls, settings: BaseModel, media: MediaSettings) -> dict[str, Any]:
        return {**super().identity(settings, media), PACKAGE: metadata.version(PACKAGE)}

    def extract(self, clips: Sequence[DecodedClip]) -> list[Features]:
        """Compute (T, 25) float32, one step each 10 ms, or (1, 88), from each clip's audio.

        Raises:
            ClipError: the waveform is empty, not at 16 kHz, or has values that are not finite.
        """
        return [self._features(clip.waveform) for clip in clips if clip.waveform]

    def _features(self, sound: Waveform) -> Features:
        check_sound(sound, SAMPLE_RATE_HZ)
        missing = max(0, round(_SHORTEST_S * SAMPLE_RATE_HZ) - len(sound.samples))
        samples = np.pad(sound.samples.astype(np.float32, copy=False), (0, missing))
        found = self._smile.process_signal(samples, SAMPLE_RATE_HZ)
        if not len(found):
            raise ClipError("audio", "openSMILE returned no features for this audio")
        if self.settings.level == "clip":
            middles = np.array([len(sound.samples) / SAMPLE_RATE_HZ / 2])
        else:
            # openSMILE ends the last step at the end of the audio, so the middle is computed from the start.
            middles = found.index.get_level_values("start").total_seconds().to_numpy() + _WINDOW_S / 2
        return Features(np.nan_to_num(found.to_numpy(dtype=np.float32)), middles.astype(np.float32))
