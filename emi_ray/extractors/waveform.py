"""The sound itself, for speech models that are trained on instead of read."""

from collections.abc import Sequence

import numpy as np

from emi_ray.errors import ClipError
from emi_ray.extractors.base import Extractor, Features
from emi_ray.media.clip import DecodedClip, Waveform
from emi_ray.settings import Settings

SAMPLE_RATE_HZ = 16_000
STEP = 320
"""Samples a step: 20 ms, as one hidden state of a speech model has."""


class SoundSettings(Settings):
    """There is nothing to choose: ``media.max_audio_s`` bounds the length."""


class Sound(Extractor):
    """16 kHz sound as it was decoded, 320 samples a step: what ``type: finetune`` of audio reads.

    Half precision keeps eleven bits of a sample, some 66 dB below its own level. Zeros fill the last step.
    """

    NAME = "waveform"
    MODALITY = "audio"
    NEEDS = frozenset({"waveform"})
    DIM = STEP
    Settings = SoundSettings

    @property
    def feature_dim(self) -> int:
        return STEP

    def extract(self, clips: Sequence[DecodedClip]) -> list[Features]:
        """Steps (T, 320) float16 of each clip.

        Raises:
            ClipError: the sound has another sampling rate, or no sample.
        """
        return [self._features(clip.waveform) for clip in clips if clip.waveform]

    def _features(self, sound: Waveform) -> Features:
        if sound.sample_rate_hz != SAMPLE_RATE_HZ:
            raise ClipError(
                "audio", f"the sound has {sound.sample_rate_hz} samples a second, not {SAMPLE_RATE_HZ}"
            )
        if not len(sound.samples):
            raise ClipError("audio", "the sound has no sample")
        num_steps = -(-len(sound.samples) // STEP)
        steps = np.zeros((num_steps, STEP), np.float16)
        steps.reshape(-1)[: len(sound.samples)] = sound.samples
        middles = (np.arange(num_steps, dtype=np.float32) + 0.5) * STEP / SAMPLE_RATE_HZ
        return Features(steps, middles)
