"""Synthesise a voice: glottal pulses and breath noise through the formants of vowels, syllable by syllable.

The source-filter model of speech (Fant, Acoustic Theory of Speech Production, 1960) with the glottal flow
derivative of Rosenberg (1971) and second-order resonators as in Klatt (1980).
"""

from dataclasses import dataclass

import numpy as np
from scipy import signal

SAMPLE_RATE_HZ = 16_000
ENVELOPE_RATE_HZ = 200

_VOWELS_HZ = ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (570, 840, 2410))
"""First three formants of /a i u e o/: mean of Peterson and Barney's (1952) male speakers."""

_BANDWIDTHS_HZ = (90, 110, 170)


@dataclass(frozen=True)
class VoiceCues:
    """Properties of the voice in standard deviations; one value per emotion, in the order of ``EMOTIONS``."""

    breath: float
    rate: float
    loudness: float
    tract_length: float
    pitch: float
    brightness: float


@dataclass(frozen=True)
class Speech:
    """Synthesised speech.

    Attributes:
        samples: (N,) float32 in [-1, 1] at ``SAMPLE_RATE_HZ``.
        envelope: (M,) in [0, 1] at ``ENVELOPE_RATE_HZ``, the loudness of the syllables, independent of the overall
            level.
    """

    samples: np.ndarray
    envelope: np.ndarray


@dataclass(frozen=True)
class _Syllables:
    """Values at the envelope rate: ``envelope`` (M,) and ``vowels`` (5, M), the share of each vowel."""

    envelope: np.ndarray
    vowels: np.ndarray


def speak_aloud(cues: VoiceCues, duration_s: float, rng: np.random.Generator) -> Speech:
    """Synthesise babble of ``duration_s`` in a random voice that expresses the cues."""
    rate_hz = 4.2 * 2 ** (0.50 * _bounded(cues.rate) + 0.06 * rng.standard_normal())
    syllables = _syllables(duration_s, rate_hz, rng)
    num_samples = round(duration_s * SAMPLE_RATE_HZ)
    source = _source(cues, syllables, num_samples, rng)
    formant_scale = 2 ** (-0.20 * _bounded(cues.tract_length) + 0.02 * rng.standard_normal())
    voice = _shape(source, syllables, formant_scale) * _stretch(syllables.envelope, num_samples)
    level_db = -27 + 7 * _bounded(cues.loudness) + 0.5 * rng.standard_normal()
    voice *= 10 ** (level_db / 20) / max(float(np.sqrt(np.mean(voice**2))), 1e-9)
    hiss = 10 ** (-66 / 20) * rng.standard_normal(num_samples)
    return Speech(np.tanh(voice + hiss).astype(np.float32), syllables.envelope)


def _syllables(duration_s: float, rate_hz: float, rng: np.random.Generator) -> _Syllables:
    """Generate rise, hold and fall of each syllable. Some syllables are pauses, but never the first."""
    num_steps = max(2, round(duration_s * ENVELOPE_RATE_HZ))
    envelope = np.zeros(num_steps)
    vowels = np.zeros((len(_VOWELS_HZ), num_steps))
    start, spoken = 0, list(rng.permutation(len(_VOWELS_HZ)))
    while start < num_steps:
        length = max(8, round(ENVELOPE_RATE_HZ / rate_hz * rng.uniform(0.8, 1.25)))
        stop = min(start + length, num_steps)
        pause = start > 0 and rng.random() < 0.1
        bump = np.sin(np.pi * (np.arange(length) + 0.5) / length) ** 0.8
        envelope[start:stop] = (0.0 if pause else rng.uniform(0.6, 1.0)) * bump[: stop - start]
        vowels[spoken[0], start:stop] = 1.0
        spoken.append(spoken.pop(0))
        start = stop
    smooth = np.hanning(13)[1:-1] / np.hanning(13).sum()
    return _Syllables(envelope, signal.convolve(vowels, smooth[None], mode="same"))


def _source(cues: VoiceCues, syllables: _Syllables, num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Generate glottal pulses with a falling, wavering pitch, a spectral tilt by brightness, and breath noise."""
    base_hz = 165 * 2 ** (0.45 * _bounded(cues.pitch) + 0.05 * rng.standard_normal())
    times_s = np.arange(num_samples) / SAMPLE_RATE_HZ
    octaves = 0.10 * np.sin(2 * np.pi * rng.uniform(0.3, 0.6) * times_s + rng.uniform(0, 2 * np.pi))
    octaves += 0.10 * _stretch(syllables.envelope, num_samples) - 0.06 * times_s / times_s[-1]
    phase = np.cumsum(base_hz * 2**octaves / SAMPLE_RATE_HZ) % 1.0
    pulses = _glottal_pulse(phase)
    corner_hz = 1200 * 2 ** (1.2 * _bounded(cues.brightness) + 0.1 * rng.standard_normal())
    pole = np.exp(-2 * np.pi * corner_hz / SAMPLE_RATE_HZ)
    pulses = signal.lfilter([1 - pole], [1, -pole], pulses)
    breath_db = -18 + 7 * _bounded(cues.breath) + 0.5 * rng.standard_normal()
    noise = rng.standard_normal(num_samples) * np.std(pulses) * 10 ** (breath_db / 20)
    return np.asarray(pulses + noise)


def _glottal_pulse(phase: np.ndarray) -> np.ndarray:
    """Return the derivative of Rosenberg's flow, which opens over 40 % of the period and closes over 16 %."""
    opening, closing = 0.40, 0.16
    rising = np.sin(np.pi * phase / opening) / opening
    falling = -np.sin(np.pi / 2 * (phase - opening) / closing) / closing
    return np.where(phase < opening, rising, np.where(phase < opening + closing, falling, 0.0))


def _shape(source: np.ndarray, syllables: _Syllables, formant_scale: float) -> np.ndarray:
    """Filter the source with every vowel's formants, and blend the results over the syllables."""
    voice = np.zeros(len(source))
    for formants_hz, share in zip(_VOWELS_HZ, syllables.vowels, strict=True):
        if not share.any():
            continue
        through = signal.sosfilt(_resonators(np.array(formants_hz) * formant_scale), source)
        voice += _stretch(share, len(source)) * through / max(float(np.std(through)), 1e-9)
    return voice


def _resonators(formants_hz: np.ndarray) -> np.ndarray:
    """Return Klatt's digital resonators as second-order sections (3, 6)."""
    radius = np.exp(-np.pi * np.array(_BANDWIDTHS_HZ) / SAMPLE_RATE_HZ)
    b = 2 * radius * np.cos(2 * np.pi * np.minimum(formants_hz, 7500) / SAMPLE_RATE_HZ)
    c = -(radius**2)
    zero, one = np.zeros(len(b)), np.ones(len(b))
    return np.stack([1 - b - c, zero, zero, one, -b, -c], axis=1)


def _stretch(steps: np.ndarray, num_samples: int) -> np.ndarray:
    """Interpolate a curve at the envelope rate to the sample rate."""
    at = np.arange(num_samples) * (ENVELOPE_RATE_HZ / SAMPLE_RATE_HZ)
    return np.interp(at, np.arange(len(steps)), steps)


def _bounded(cue: float) -> float:
    return min(max(cue, -2.5), 2.5)
