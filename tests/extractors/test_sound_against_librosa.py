"""The spectral measures against librosa's, which production code does not import (see sound/spectrum.py)."""

import os
import subprocess
import sys
from collections.abc import Mapping

import numpy as np
import pytest

from emi_ray.extractors.sound.spectrum import ROLLOFFS, SHAPE_NAMES, cosine_basis, mel_weights, spectral_shape

RATE_HZ, WIDTH = 16000, 512
REFERENCE = f"""
import sys, librosa, numpy as np
power = np.load(sys.argv[1])
levels = librosa.power_to_db(power[:, :40].T + 1, top_db=None)
found = dict(
    mel=librosa.filters.mel(sr={RATE_HZ}, n_fft={WIDTH}, n_mels=40, fmin=60, fmax=7600, htk=True, norm=1),
    levels=levels,
    mfcc=librosa.feature.mfcc(S=levels, n_mfcc=13),
    centroid=librosa.feature.spectral_centroid(S=power.T, sr={RATE_HZ})[0],
)
for share in {ROLLOFFS}:
    name = f"rolloff_{{round(100 * share)}}"
    found[name] = librosa.feature.spectral_rolloff(S=power.T, sr={RATE_HZ}, roll_percent=share)[0]
np.savez(sys.argv[2], **found)
"""


@pytest.fixture(scope="module")
def power() -> np.ndarray:
    """Spectra (N, bins) with nothing below 50 Hz, which our shape measures leave out."""
    spectra = np.random.default_rng(0).gamma(1.0, size=(20, WIDTH // 2 + 1)).astype(np.float32)
    spectra[:, :2] = 0
    return spectra


@pytest.fixture(scope="module")
def theirs(power, tmp_path_factory) -> Mapping[str, np.ndarray]:
    """What librosa makes of it, in a process without numba's compiler, which would take half a minute."""
    folder = tmp_path_factory.mktemp("librosa")
    np.save(folder / "power.npy", power)
    command = [sys.executable, "-c", REFERENCE, str(folder / "power.npy"), str(folder / "found.npz")]
    subprocess.run(command, check=True, env={**os.environ, "NUMBA_DISABLE_JIT": "1"})
    return np.load(folder / "found.npz")


def test_mel_filters_are_those_of_librosa(theirs):
    np.testing.assert_allclose(mel_weights(40, WIDTH, RATE_HZ, 60, 7600), theirs["mel"], atol=1e-6)


def test_cepstra_are_those_of_librosa(theirs):
    np.testing.assert_allclose(cosine_basis(13, 40) @ theirs["levels"], theirs["mfcc"], rtol=1e-4, atol=1e-3)


def test_centroid_and_rolloff_are_those_of_librosa(power, theirs):
    ours = dict(zip(SHAPE_NAMES, spectral_shape(power, RATE_HZ).T, strict=True))
    for name in ("centroid", *(f"rolloff_{round(100 * share)}" for share in ROLLOFFS)):
        np.testing.assert_allclose(500 * 2 ** ours[name], theirs[name], rtol=1e-4)
