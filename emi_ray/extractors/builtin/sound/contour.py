"""The course of level and pitch over a clip, and statistics around each step. One step is 20 ms."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from emi_ray.extractors.builtin.rolling import mean_around, slope_around, std_around
from emi_ray.extractors.builtin.sound.pitch import Pitch
from emi_ray.extractors.builtin.sound.spectrum import decibels

CONTOUR_NAMES = (
    *("level", "level_over_clip", "level_delta", "zero_crossings", "flux", "log_duration"),
    *("voicing", "voiced", "harmonics_to_noise", "pitch", "pitch_over_clip", "pitch_delta"),
    *("jitter", "shimmer"),
)
CONTEXT_NAMES = ("level_std", "flux_mean", "pause_share", "voiced_share", "pitch_std", "modulation")


@dataclass(frozen=True)
class Course:
    """Measurements of single steps.

    Attributes:
        mel: (T, M) levels in dB.
        level: (T,) dB.
        zero_crossings: (T,) share of sample pairs with a change of sign.
        pitch: the pitch of each step.
    """

    mel: np.ndarray
    level: np.ndarray
    zero_crossings: np.ndarray
    pitch: Pitch


def contour(course: Course, voicing_threshold: float) -> dict[str, np.ndarray]:
    """Compute ``CONTOUR_NAMES``, each (T,) and scaled to O(1), and ``pause`` (0 or 1), of one clip.

    Levels are (dB + 30) / 15; pitch is in octaves above 150 Hz, its slope in octaves per second; jitter and shimmer
    are the changes of pitch and level from one voiced step to the next. A step is voiced if its periodicity is
    above the threshold and its level above −65 dB; a pause is 30 dB below the 95th percentile.
    """
    octaves = np.log2(course.pitch.f0_hz / 150)
    voiced = (course.pitch.periodicity > voicing_threshold) & (course.level > -65)
    # A change of pitch has a meaning only if the previous step is voiced too.
    both = voiced & np.append(False, voiced[:-1])
    loud = np.percentile(course.level, 95)
    usual = np.median(octaves[voiced]) if voiced.any() else 0.0
    correlation = np.clip(course.pitch.correlation, 0.01, 0.999)
    # A larger jump within 20 ms is rather an error of the estimate than a movement of the voice.
    pitch_step = np.clip(_step(octaves), -0.06, 0.06) * 50
    return {
        "level": (course.level + 30) / 15,
        "level_over_clip": (course.level - loud) / 15 + 1,
        "level_delta": slope_around(course.level) / 4,
        "zero_crossings": course.zero_crossings * 8 - 1,
        "flux": np.maximum(_step(course.mel), 0).mean(axis=1) / 3,
        "log_duration": np.full(len(voiced), np.log10(len(voiced) / 350)),
        "voicing": course.pitch.periodicity * 2 - 1,
        "voiced": voiced * 1.0,
        "harmonics_to_noise": decibels(correlation / (1 - correlation)) / 10 * voiced,
        "pitch": octaves * voiced,
        "pitch_over_clip": (octaves - usual) * 3 * voiced,
        "pitch_delta": pitch_step * both,
        "jitter": np.abs(pitch_step) * both,
        "shimmer": np.minimum(np.abs(_step(course.level)) / 3, 3) * both,
        "pause": (course.level < loud - 30) * 1.0,
    }


def context(contour: Mapping[str, np.ndarray], width: int) -> np.ndarray:
    """Compute ``CONTEXT_NAMES`` (T, 6) over the ``width`` steps around each step of a contour.

    ``pitch_std`` is over voiced steps only; ``modulation`` is the strength of the level's variation between about 3
    and 8 Hz, the rate of syllables.
    """
    level, pitch, voiced = contour["level"], contour["pitch"], contour["voiced"]
    voiced_share = mean_around(voiced, width)
    # At least one step in the window, to avoid a division by zero in windows without voice.
    divisor = np.maximum(voiced_share, 1 / width)
    pitch_variance = mean_around(pitch**2, width) / divisor - (mean_around(pitch, width) / divisor) ** 2
    # The difference of two moving averages of 60 and 180 ms is a simple band-pass filter.
    syllables = mean_around(level, 3) - mean_around(level, 9)
    columns = [
        std_around(level, width) * 2,
        mean_around(contour["flux"], width),
        mean_around(contour["pause"], width) * 2,
        voiced_share * 2 - 1,
        np.sqrt(np.maximum(pitch_variance, 0)) * 4,
        np.sqrt(np.maximum(mean_around(syllables**2, width), 0)) * 5,
    ]
    return np.stack(columns, axis=1)


def _step(values: np.ndarray) -> np.ndarray:
    """Return the difference to the previous step; zero for the first."""
    return np.diff(values, axis=0, prepend=values[:1])
