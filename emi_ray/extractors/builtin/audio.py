"""Built-in audio extractor: spectral and prosodic features per 20 ms step. Nothing is downloaded."""

from collections.abc import Iterator, Sequence
from dataclasses import fields

import numpy as np
from pydantic import Field

from emi_ray.extractors.base import Extractor, Features
from emi_ray.extractors.builtin.rolling import slope_around, std_around
from emi_ray.extractors.builtin.sound.checks import check_sound
from emi_ray.extractors.builtin.sound.contour import (
    CONTEXT_NAMES,
    CONTOUR_NAMES,
    Course,
    context,
    contour,
)
from emi_ray.extractors.builtin.sound.pitch import Pitch, estimate_pitch
from emi_ray.extractors.builtin.sound.spectrum import (
    SHAPE_NAMES,
    cepstra_of,
    decibels,
    mel_weights,
    power_spectrum,
    spectral_shape,
)
from emi_ray.media.clip import DecodedClip, Waveform
from emi_ray.settings import Settings

SAMPLE_RATE_HZ = 16_000
HOP = 320
"""Samples from one step to the next: 20 ms."""

_WINDOW, _PITCH_WINDOW = 512, 1024
_MARGIN = (_PITCH_WINDOW - HOP) // 2
_CHUNK_STEPS = 512
_NUM_CEPSTRA = 13
_CONTEXTS = {"short": 25, "long": 75}
"""Windows around a step, in steps: 0.5 s and 1.5 s."""

_CEPSTRUM_SCALES = 90 / np.arange(1, _NUM_CEPSTRA + 1)
_CEPSTRUM_MEANS = np.array([-270, *[0] * (_NUM_CEPSTRA - 1)])
_SHAPE_MEANS = np.array([-0.3, -0.6, -25, 10, 25, -6, -1.2, -0.7, 0, 0.6, *[20] * 5])
_SHAPE_SCALES = np.array([1, 1, 10, 10, 15, 4, 1, 1, 1, 1, *[10] * 5])
"""Rounded means and standard deviations of speech recorded at a short distance."""


class ProsodySettings(Settings):
    """Settings of the spectral bands and of the pitch estimate."""

    num_mels: int = Field(40, ge=20, le=64, description="log-mel bands between 60 and 7600 Hz")
    pitch_low_hz: float = Field(
        60.0, ge=40, le=150, description="lowest fundamental frequency that is searched for"
    )
    pitch_high_hz: float = Field(
        500.0, ge=250, le=1000, description="highest fundamental frequency that is searched for"
    )
    voicing_threshold: float = Field(0.55, gt=0, lt=1, description="periodicity above which a step is voiced")


class Prosody(Extractor):
    """Spectral and prosodic features of 16 kHz audio, one step each 20 ms.

    Blocks of dimensions, in order (:meth:`feature_names` lists each):

    - ``mel``: log-mel levels;
    - ``mfcc``, ``mfcc_delta``, ``mfcc_std``: the 13 cepstra of these levels, their slope over five steps (Young et
      al., *HTK Book*, 5.9) and their standard deviation over 0.5 s;
    - spectral shape: see :func:`~emi_ray.extractors.builtin.sound.spectrum.spectral_shape`;
    - contour: level, zero crossings, flux, length of the clip; periodicity and f0 (YIN) with its slope,
      harmonics-to-noise ratio, jitter and shimmer from step to step, zero in steps without voice;
    - context: statistics of level, flux, pauses, voicing, pitch and the modulation of the level over the 0.5 s
      (``short``) and 1.5 s (``long``) around a step.

    All features are scaled by fixed constants to about [-3, 3], so that differences of loudness and pitch between
    clips are kept; only ``*_over_clip`` and pauses are relative to the clip. Step i is centred on (i + 0.5) · 0.02
    s. The ends are padded with silence, and a clip shorter than one step gives one step.
    """

    NAME = "prosody"
    VERSION = 2
    MODALITY = "audio"
    NEEDS = frozenset({"waveform"})
    DIM = 120
    Settings = ProsodySettings

    def __init__(self, settings: ProsodySettings) -> None:
        super().__init__(settings)
        self._mel = mel_weights(settings.num_mels, _WINDOW, SAMPLE_RATE_HZ, 60, 7600)

    @property
    def feature_dim(self) -> int:
        return len(self.feature_names())

    def feature_names(self) -> list[str]:
        """Return one name per dimension, such as ``mel_0``, ``rolloff_85`` or ``pitch_std_long``."""
        bands = [f"mel_{band}" for band in range(self.settings.num_mels)]
        cepstra = [f"{kind}_{k}" for kind in ("mfcc", "mfcc_delta", "mfcc_std") for k in range(_NUM_CEPSTRA)]
        around = [f"{name}_{width}" for width in _CONTEXTS for name in CONTEXT_NAMES]
        return [*bands, *cepstra, *SHAPE_NAMES, *CONTOUR_NAMES, *around]

    def extract(self, clips: Sequence[DecodedClip]) -> list[Features]:
        """Compute one step per 20 ms of each clip's audio: (T, feature_dim) float32.

        Raises:
            ClipError: the waveform is empty, not at 16 kHz, or has values that are not finite.
        """
        return [self._features(clip.waveform) for clip in clips if clip.waveform]

    def _features(self, waveform: Waveform) -> Features:
        check_sound(waveform, SAMPLE_RATE_HZ)
        spectra, courses = zip(*map(self._measure, _chunks(waveform.samples)), strict=True)
        shape, course = np.concatenate(spectra), _join(courses)
        cepstra = cepstra_of(course.mel, _NUM_CEPSTRA)
        curves = contour(course, self.settings.voicing_threshold)
        blocks = [
            (course.mel + 40) / 20,
            (cepstra - _CEPSTRUM_MEANS) / _CEPSTRUM_SCALES,
            slope_around(cepstra) / _CEPSTRUM_SCALES * 8,
            std_around(cepstra, _CONTEXTS["short"]) / _CEPSTRUM_SCALES * 2,
            (shape - _SHAPE_MEANS) / _SHAPE_SCALES,
            np.stack([curves[name] for name in CONTOUR_NAMES], axis=1),
            *(context(curves, width) for width in _CONTEXTS.values()),
        ]
        values = np.concatenate(blocks, axis=1, dtype=np.float32)
        stamps = (np.arange(len(values)) + 0.5) * (HOP / SAMPLE_RATE_HZ)
        return Features(np.clip(values, -10, 10), stamps.astype(np.float32))

    def _measure(self, chunk: np.ndarray) -> tuple[np.ndarray, Course]:
        """Return the spectral shape and the course of a chunk of n · HOP samples, with ``_MARGIN`` more on both
        sides.
        """
        # Both windows are centred on the same step, so the shorter one starts later.
        inset = (_PITCH_WINDOW - _WINDOW) // 2
        windows = _windows(chunk[inset:-inset], _WINDOW, HOP)
        power = power_spectrum(windows)
        # A change of the sign bit between neighbours is a zero crossing.
        negative = np.signbit(windows)
        # Pitch is at most 1 kHz, so half of the sample rate suffices. The mean of two samples is a simple low-pass
        # filter.
        halved = (chunk[0::2] + chunk[1::2]) / 2
        pitch = estimate_pitch(
            _windows(halved, _PITCH_WINDOW // 2, HOP // 2),
            SAMPLE_RATE_HZ / 2,
            self.settings.pitch_low_hz,
            self.settings.pitch_high_hz,
        )
        return spectral_shape(power, SAMPLE_RATE_HZ), Course(
            mel=decibels(np.einsum("tf,mf->tm", power, self._mel)),
            level=decibels(power.mean(axis=1)),
            zero_crossings=(negative[:, 1:] != negative[:, :-1]).mean(axis=1, dtype=np.float32),
            pitch=pitch,
        )


def _chunks(samples: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the samples in chunks of up to ``_CHUNK_STEPS`` steps, each with ``_MARGIN`` of audio or silence on
    both sides.
    """
    num_steps = max(1, len(samples) // HOP)
    # The last window reaches beyond the audio; silence is added so that it is complete.
    missing = max(0, num_steps * HOP + _MARGIN - len(samples))
    padded = np.pad(samples.astype(np.float32, copy=False), (_MARGIN, missing))
    for first in range(0, num_steps, _CHUNK_STEPS):
        last = min(first + _CHUNK_STEPS, num_steps)
        yield padded[first * HOP : last * HOP + 2 * _MARGIN]


def _windows(samples: np.ndarray, width: int, hop: int) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(samples, width)[::hop]


def _join(courses: Sequence[Course]) -> Course:
    """Concatenate the courses of consecutive chunks."""
    pitch = Pitch(*(np.concatenate([getattr(c.pitch, f.name) for c in courses]) for f in fields(Pitch)))
    mel, level, zero_crossings = (
        np.concatenate([getattr(course, name) for course in courses])
        for name in ("mel", "level", "zero_crossings")
    )
    return Course(mel, level, zero_crossings, pitch)
