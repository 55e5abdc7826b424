"""Store the waveform itself, for speech models that are fine-tuned."""

from collections.abc import Sequence

import numpy as np

from emi_ray.errors import ClipError
from emi_ray.extractors.base import Extractor, Features
from emi_ray.media.clip import DecodedClip, Waveform
from emi_ray.settings import Settings

SAMPLE_RATE_HZ = 16_000
STEP = 320
"""Samples per step: 20 ms, the duration of one hidden state of a speech model."""


class SoundSettings(Settings):
    """No settings; ``media.max_audio_s`` limits the length."""


class Sound(Extractor):
    """The decoded 16 kHz waveform, 320 samples per step. Recipes with ``type: finetune`` read it.

    Half precision has 11 significant bits, so the rounding error is about 66 dB below each sample. The last step is
    padded with zeros.
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
        """Return steps (T, 320) float16 of each clip.

        Raises:
            ClipError: the waveform has another sample rate, or no samples.
        """
        return [self._features(clip.waveform) for clip in clips if clip.waveform]

    def _features(self, sound: Waveform) -> Features:
        if sound.sample_rate_hz != SAMPLE_RATE_HZ:
            raise ClipError(
                "audio", f"the audio has a sample rate of {sound.sample_rate_hz} Hz, not {SAMPLE_RATE_HZ} Hz"
            )
        if not len(sound.samples):
            raise ClipError("audio", "the audio has no samples")
        num_steps = -(-len(sound.samples) // STEP)
        steps = np.zeros((num_steps, STEP), np.float16)
        steps.reshape(-1)[: len(sound.samples)] = sound.samples
        middles = (np.arange(num_steps, dtype=np.float32) + 0.5) * STEP / SAMPLE_RATE_HZ
        return Features(steps, middles)
