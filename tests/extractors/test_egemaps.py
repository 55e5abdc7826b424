"""eGeMAPS by openSMILE, an extra."""

import numpy as np
import pytest

from emi_ray.config import ExtractorSettings, MediaSettings
from emi_ray.errors import ClipError, UserError
from emi_ray.extractors import specify
from emi_ray.extractors.external import egemaps
from emi_ray.media.clip import DecodedClip, Waveform

RATE = 16_000


@pytest.fixture(scope="module")
def extractor():
    pytest.importorskip("opensmile")
    return egemaps.Egemaps(egemaps.EgemapsSettings())


def voice(seconds, pitch_hz=150.0):
    clock = np.arange(int(seconds * RATE)) / RATE
    buzz = sum(np.sin(2 * np.pi * k * pitch_hz * clock) / k for k in range(1, 20))
    return DecodedClip("voice", waveform=Waveform((0.1 * buzz).astype(np.float32), RATE))


def test_steps_hold_what_opensmile_says_of_the_sound(extractor):
    [features] = extractor.extract([voice(1.0)])
    assert features.values.shape[1] == extractor.feature_dim == len(extractor.feature_names()) == 25
    names = extractor.feature_names()
    pitch = features.values[:, names.index("F0semitoneFrom27.5Hz_sma3nz")]
    assert np.median(pitch[pitch > 0]) == pytest.approx(12 * np.log2(150 / 27.5), abs=0.2)
    assert np.allclose(np.diff(features.timestamps_s), 0.01, atol=1e-4)
    assert 0 < features.timestamps_s[0] < 0.05


def test_a_clip_as_a_whole_is_88_numbers(extractor):
    whole = egemaps.Egemaps(egemaps.EgemapsSettings(level="clip"))
    [features] = whole.extract([voice(1.0)])
    assert features.values.shape == (1, 88)
    assert np.isfinite(features.values).all()
    assert features.timestamps_s[0] == pytest.approx(0.5)


@pytest.mark.parametrize("num_samples", [1, 100, 1000])
def test_short_and_silent_sound_still_gives_steps(extractor, num_samples):
    silence = DecodedClip("short", waveform=Waveform(np.zeros(num_samples, np.float32), RATE))
    [features] = extractor.extract([silence])
    assert len(features.values) >= 1
    assert np.isfinite(features.values).all()


def test_sound_that_cannot_be_described_is_refused(extractor):
    for samples, rate in (([], RATE), ([np.nan] * 4000, RATE), ([0.0] * 4000, 8000)):
        clip = DecodedClip("odd", waveform=Waveform(np.array(samples, np.float32), rate))
        with pytest.raises(ClipError):
            extractor.extract([clip])


def test_without_the_package_the_remedy_is_named(monkeypatch):
    monkeypatch.setattr(egemaps, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"emi_ray\[egemaps\]"):
        specify("audio", ExtractorSettings(name="egemaps"), MediaSettings())


def test_the_version_of_opensmile_is_part_of_the_identity(monkeypatch):
    monkeypatch.setattr(egemaps, "find_spec", lambda name: True)
    prints = set()
    for version in ("2.5.0", "2.6.0"):
        monkeypatch.setattr(egemaps.metadata, "version", lambda name, version=version: version)
        prints.add(specify("audio", ExtractorSettings(name="egemaps"), MediaSettings()).fingerprint)
    assert len(prints) == 2
