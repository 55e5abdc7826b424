"""Spectral measurements of many short windows at once.

Mel filters and cepstra are librosa's: importing these parts of it takes about a second in a process, and nothing is
compiled. What librosa lacks (alpha ratio, Hammarberg index, slope) or scales differently is computed with numpy.
Products use einsum instead of BLAS, so that the output is bit-identical for any number of threads.
"""

from itertools import pairwise

import numpy as np

FLOOR = 1e-10
"""Power of faint white noise (−100 dB) that is added to every window, so that the level of silence is finite."""

CONTRAST_EDGES_HZ = (200, 400, 800, 1600, 3200, 8000)
ROLLOFFS = (0.25, 0.5, 0.85, 0.95)
SHAPE_NAMES = (
    *("centroid", "bandwidth", "flatness", "alpha_ratio", "hammarberg", "slope"),
    *(f"rolloff_{round(100 * share)}" for share in ROLLOFFS),
    *(f"contrast_{low}_hz" for low in CONTRAST_EDGES_HZ[:-1]),
)


def power_spectrum(windows: np.ndarray) -> np.ndarray:
    """Compute the power density (N, W // 2 + 1) of ``windows`` (N, W) with a Hann window; white noise of power v
    gives v.
    """
    # The periodic form of the window, as usual for spectra; np.hanning gives the symmetric one.
    hann = np.hanning(windows.shape[1] + 1)[:-1].astype(np.float32)
    spectrum = np.fft.rfft(windows * hann, axis=1)
    return (spectrum.real**2 + spectrum.imag**2) / np.sum(hann**2) + np.float32(FLOOR)


def decibels(power: np.ndarray) -> np.ndarray:
    """Return 10 log10 of positive powers."""
    level: np.ndarray = 10 * np.log10(power)
    return level


def mel_weights(num_bands: int, width: int, sample_rate_hz: int, low_hz: float, high_hz: float) -> np.ndarray:
    """Return triangular filters (num_bands, width // 2 + 1), each with sum one, evenly spaced on the mel scale.

    The scale is m = 2595 log10(1 + f / 700) (O'Shaughnessy 1987, as in the HTK Book).
    """
    from librosa.filters import mel  # imported here, since it takes most of a second

    weights: np.ndarray = mel(
        sr=sample_rate_hz, n_fft=width, n_mels=num_bands, fmin=low_hz, fmax=high_hz, htk=True, norm=1
    )
    return weights


def cepstra_of(levels: np.ndarray, num_cepstra: int) -> np.ndarray:
    """Compute mel-frequency cepstra (N, num_cepstra) from log-mel levels (N, bands) with an orthonormal DCT-II."""
    from librosa.feature import mfcc

    cepstra: np.ndarray = mfcc(S=levels.T, n_mfcc=num_cepstra)
    return np.ascontiguousarray(cepstra.T)


def spectral_shape(power: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """Describe the shape of power spectra (N, bins from 0 Hz to half the sample rate), independent of their level.

    Returns:
        (N, len(SHAPE_NAMES)). Centroid, bandwidth and roll-offs are in octaves above 500 Hz; flatness, alpha ratio,
        Hammarberg index and contrasts in dB; slope in dB per kHz. Ratio, index and slope follow Eyben et al. 2016
        (*GeMAPS*). Frequencies below 50 Hz are ignored.
    """
    frequencies_hz = np.linspace(0, sample_rate_hz / 2, power.shape[1], dtype=np.float32)
    first = np.searchsorted(frequencies_hz, 50)
    return np.stack(list(_shape_columns(power[:, first:], frequencies_hz[first:])), axis=1)


def _shape_columns(power: np.ndarray, frequencies_hz: np.ndarray) -> list[np.ndarray]:
    def band(values: np.ndarray, low_hz: float, high_hz: float) -> np.ndarray:
        start, stop = np.searchsorted(frequencies_hz, (low_hz, high_hz))
        return values[..., start:stop]

    level = decibels(power)
    share = power / power.sum(axis=1, keepdims=True)
    centroid = np.einsum("nf,f->n", share, frequencies_hz)
    variance = np.einsum("nf,nf->n", share, (frequencies_hz - centroid[:, None]) ** 2)
    cumulated = np.cumsum(share, axis=1)
    return [
        _octaves(centroid),
        _octaves(np.sqrt(variance)),
        level.mean(axis=1) - decibels(power.mean(axis=1)),
        decibels(band(power, 50, 1000).sum(axis=1) / band(power, 1000, 5000).sum(axis=1)),
        band(level, 50, 2000).max(axis=1) - band(level, 2000, 5000).max(axis=1),
        _slope(band(level, 50, 5000), band(frequencies_hz, 50, 5000) / 1000),
        *(_octaves(frequencies_hz[np.argmax(cumulated >= part, axis=1)]) for part in ROLLOFFS),
        *(_contrast(band(level, low, high)) for low, high in pairwise(CONTRAST_EDGES_HZ)),
    ]


def _octaves(frequencies_hz: np.ndarray) -> np.ndarray:
    """Return octaves above 500 Hz; frequencies below 50 Hz count as 50 Hz."""
    octaves: np.ndarray = np.log2(np.maximum(frequencies_hz, 50) / 500)
    return octaves


def _slope(level: np.ndarray, kilohertz: np.ndarray) -> np.ndarray:
    """Return the least-squares slope of each row of ``level``."""
    centred = kilohertz - kilohertz.mean()
    slope: np.ndarray = np.einsum("nf,f->n", level, centred / np.sum(centred**2))
    return slope


def _contrast(level: np.ndarray) -> np.ndarray:
    """Return the mean of the highest fifth of a band minus that of the lowest (Jiang et al. 2002)."""
    ordered = np.sort(level, axis=1)
    fifth = max(1, level.shape[1] // 5)
    contrast: np.ndarray = ordered[:, -fifth:].mean(axis=1) - ordered[:, :fifth].mean(axis=1)
    return contrast
