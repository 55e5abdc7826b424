"""The spectral measures against librosa's, which production code does not import (see sound/spectrum.py)."""

import librosa
import numpy as np
import pytest

from emi_ray.extractors.sound.spectrum import ROLLOFFS, SHAPE_NAMES, cosine_basis, mel_weights, spectral_shape

RATE_HZ, WIDTH = 16000, 512


@pytest.fixture
def power() -> np.ndarray:
    """Spectra (N, bins) with nothing below 50 Hz, which our shape measures leave out."""
    spectra = np.random.default_rng(0).gamma(1.0, size=(20, WIDTH // 2 + 1)).astype(np.float32)
    spectra[:, :2] = 0
    return spectra


def test_mel_filters_are_those_of_librosa():
    theirs = librosa.filters.mel(sr=RATE_HZ, n_fft=WIDTH, n_mels=40, fmin=60, fmax=7600, htk=True, norm=1)
    np.testing.assert_allclose(mel_weights(40, WIDTH, RATE_HZ, 60, 7600), theirs, atol=1e-6)


def test_cepstra_are_those_of_librosa(power):
    levels = librosa.power_to_db(power[:, :40].T + 1, top_db=None)
    theirs = librosa.feature.mfcc(S=levels, n_mfcc=13)
    np.testing.assert_allclose(cosine_basis(13, 40) @ levels, theirs, rtol=1e-4, atol=1e-3)


def test_centroid_and_rolloff_are_those_of_librosa(power):
    ours = dict(zip(SHAPE_NAMES, spectral_shape(power, RATE_HZ).T, strict=True))
    theirs = librosa.feature.spectral_centroid(S=power.T, sr=RATE_HZ)[0]
    np.testing.assert_allclose(500 * 2 ** ours["centroid"], theirs, rtol=1e-4)
    for share in ROLLOFFS:
        theirs = librosa.feature.spectral_rolloff(S=power.T, sr=RATE_HZ, roll_percent=share)[0]
        np.testing.assert_allclose(500 * 2 ** ours[f"rolloff_{round(100 * share)}"], theirs, rtol=1e-4)
