"""Check the waveform for the built-in extractors."""

import numpy as np

from emi_ray.errors import ClipError
from emi_ray.media.clip import Waveform


def check_sound(waveform: Waveform, sample_rate_hz: int) -> None:
    """Check that a waveform has the given sample rate, at least one sample, and only finite samples.

    Raises:
        ClipError: it does not.
    """
    if waveform.sample_rate_hz != sample_rate_hz:
        raise ClipError("audio", f"the audio is at {waveform.sample_rate_hz} Hz, not at {sample_rate_hz} Hz")
    if not len(waveform.samples):
        raise ClipError("audio", "the audio is empty")
    if not np.isfinite(waveform.samples).all():
        raise ClipError("audio", "the audio has values that are not finite")
