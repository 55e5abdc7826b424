"""What sound must be for the extractors that are built in."""

import numpy as np

from emi_ray.errors import ClipError
from emi_ray.media.clip import Waveform


def check_sound(waveform: Waveform, sample_rate_hz: int) -> None:
    """Refuse sound of another sample rate, without samples, or with samples that are not finite.

    Raises:
        ClipError: it is one of these.
    """
    if waveform.sample_rate_hz != sample_rate_hz:
        raise ClipError("audio", f"the sound is at {waveform.sample_rate_hz} Hz, not at {sample_rate_hz} Hz")
    if not len(waveform.samples):
        raise ClipError("audio", "the sound is empty")
    if not np.isfinite(waveform.samples).all():
        raise ClipError("audio", "the sound holds values that are not numbers")
