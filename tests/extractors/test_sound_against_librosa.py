"""The spectral measures against librosa's."""

import librosa
import numpy as np
import pytest
import scipy.signal

from emi_ray.extractors.builtin.audio import Prosody, ProsodySettings
from emi_ray.extractors.builtin.sound.spectrum import ROLLOFFS, SHAPE_NAMES, spectral_shape
from emi_ray.media.clip import DecodedClip, Waveform

RATE_HZ, WIDTH = 16000, 512


@pytest.fixture
def power() -> np.ndarray:
    """Spectra (N, bins) with nothing below 50 Hz, which our shape measures leave out."""
    spectra = np.random.default_rng(0).gamma(1.0, size=(20, WIDTH // 2 + 1)).astype(np.float32)
    spectra[:, :2] = 0
    return spectra


def test_mel_levels_and_cepstra_of_sound_are_those_of_librosa():
    sound = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    extractor = Prosody(ProsodySettings())
    values = extractor.extract([DecodedClip("noise", waveform=Waveform(sound, RATE_HZ))])[0].values
    padded = np.pad(sound, (WIDTH // 2 - 160, WIDTH))  # our first window is centred on 10 ms
    power = np.abs(librosa.stft(padded, n_fft=WIDTH, hop_length=320, center=False)) ** 2
    power /= np.sum(scipy.signal.get_window("hann", WIDTH) ** 2)
    filters = librosa.filters.mel(sr=RATE_HZ, n_fft=WIDTH, n_mels=40, fmin=60, fmax=7600, htk=True, norm=1)
    levels = 10 * np.log10(filters @ power)
    first = librosa.feature.mfcc(S=levels, n_mfcc=13)[1] / 45
    names = extractor.feature_names()
    num_steps = len(values) - 2  # the last windows hold padding
    np.testing.assert_allclose(
        values[:num_steps, names.index("mel_7")], (levels[7, :num_steps] + 40) / 20, atol=1e-3
    )
    np.testing.assert_allclose(values[:num_steps, names.index("mfcc_1")], first[:num_steps], atol=1e-3)


def test_centroid_and_rolloff_are_those_of_librosa(power):
    ours = dict(zip(SHAPE_NAMES, spectral_shape(power, RATE_HZ).T, strict=True))
    theirs = librosa.feature.spectral_centroid(S=power.T, sr=RATE_HZ)[0]
    np.testing.assert_allclose(500 * 2 ** ours["centroid"], theirs, rtol=1e-4)
    for share in ROLLOFFS:
        theirs = librosa.feature.spectral_rolloff(S=power.T, sr=RATE_HZ, roll_percent=share)[0]
        np.testing.assert_allclose(500 * 2 ** ours[f"rolloff_{round(100 * share)}"], theirs, rtol=1e-4)
