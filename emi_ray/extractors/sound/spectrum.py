"""Spectral measures of many short windows of sound at once.

Written in numpy: librosa would need about 2 s to import in every process, and its compiled parts far more the
first time. Products are einsum, not BLAS, so that the number of threads changes no bit of the output.
"""

from itertools import pairwise

import numpy as np

FLOOR = 1e-10
"""Power of the faint white noise (−100 dB) added to every window, which keeps silence finite and smooth."""

CONTRAST_EDGES_HZ = (200, 400, 800, 1600, 3200, 8000)
ROLLOFFS = (0.25, 0.5, 0.85, 0.95)
SHAPE_NAMES = (
    *("centroid", "bandwidth", "flatness", "alpha_ratio", "hammarberg", "slope"),
    *(f"rolloff_{round(100 * share)}" for share in ROLLOFFS),
    *(f"contrast_{low}_hz" for low in CONTRAST_EDGES_HZ[:-1]),
)


def power_spectrum(windows: np.ndarray) -> np.ndarray:
    """Power density (N, W // 2 + 1) of Hann-weighted ``windows`` (N, W); white noise of power v gives v."""
    hann = np.hanning(windows.shape[1] + 1)[:-1].astype(np.float32)
    spectrum = np.fft.rfft(windows * hann, axis=1)
    return (spectrum.real**2 + spectrum.imag**2) / np.sum(hann**2) + np.float32(FLOOR)


def decibels(power: np.ndarray) -> np.ndarray:
    """10 log10 of positive powers."""
    level: np.ndarray = 10 * np.log10(power)
    return level


def mel_weights(num_bands: int, width: int, sample_rate_hz: int, low_hz: float, high_hz: float) -> np.ndarray:
    """Triangular filters (num_bands, width // 2 + 1), each of sum one, evenly spaced on the mel scale
    m = 2595 log10(1 + f / 700) (O'Shaughnessy 1987, as in the HTK Book)."""
    low_mel, high_mel = 2595 * np.log10(1 + np.array([low_hz, high_hz]) / 700)
    corners = 700 * (10 ** (np.linspace(low_mel, high_mel, num_bands + 2) / 2595) - 1)
    frequencies = np.fft.rfftfreq(width, 1 / sample_rate_hz)
    left, centre, right = (corners[start : start + num_bands, None] for start in range(3))
    rising = (frequencies - left) / (centre - left)
    falling = (right - frequencies) / (right - centre)
    weights = np.maximum(0, np.minimum(rising, falling))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def cosine_basis(num_cepstra: int, num_bands: int) -> np.ndarray:
    """Orthonormal DCT-II (num_cepstra, num_bands): log-mel levels to cepstra."""
    angles = np.pi * np.arange(num_cepstra)[:, None] * (np.arange(num_bands) + 0.5) / num_bands
    basis = np.sqrt(2 / num_bands) * np.cos(angles)
    basis[0] /= np.sqrt(2)
    return basis.astype(np.float32)


def spectral_shape(power: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """The form of spectra (N, bins from 0 Hz to half the sample rate), whatever their level.

    Returns:
        (N, len(SHAPE_NAMES)). Centroid, bandwidth and roll-offs are in octaves above 500 Hz; flatness, alpha
        ratio, Hammarberg index and contrasts in dB; slope in dB per kHz. Ratio, index and slope are as in
        Eyben et al. 2016 (*GeMAPS*). What lies below 50 Hz counts for none of them.
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
    """Octaves above 500 Hz; below 50 Hz counts as 50 Hz."""
    octaves: np.ndarray = np.log2(np.maximum(frequencies_hz, 50) / 500)
    return octaves


def _slope(level: np.ndarray, kilohertz: np.ndarray) -> np.ndarray:
    """Least-squares slope of each row of ``level``."""
    centred = kilohertz - kilohertz.mean()
    slope: np.ndarray = np.einsum("nf,f->n", level, centred / np.sum(centred**2))
    return slope


def _contrast(level: np.ndarray) -> np.ndarray:
    """Mean of the highest fifth of a band less that of the lowest (Jiang et al. 2002)."""
    ordered = np.sort(level, axis=1)
    fifth = max(1, level.shape[1] // 5)
    contrast: np.ndarray = ordered[:, -fifth:].mean(axis=1) - ordered[:, :fifth].mean(axis=1)
    return contrast
