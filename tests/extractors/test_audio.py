import hashlib
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from emi_ray.errors import ClipError
from emi_ray.extractors.base import Features
from emi_ray.extractors.builtin.audio import HOP, SAMPLE_RATE_HZ, Prosody
from emi_ray.extractors.builtin.sound.pitch import estimate_pitch
from emi_ray.media.clip import DecodedClip, Waveform

EXTRACTOR = Prosody(Prosody.Settings())
NAMES = EXTRACTOR.feature_names()


def clip(samples: np.ndarray, rate: int = SAMPLE_RATE_HZ) -> DecodedClip:
    return DecodedClip("a", waveform=Waveform(samples.astype(np.float32), rate))


def extract(samples: np.ndarray) -> Features:
    return EXTRACTOR.extract([clip(samples)])[0]


def column(features: Features, name: str) -> np.ndarray:
    return features.values[:, NAMES.index(name)]


def voice(f0_hz: float, seconds: float = 1.0, loudness: float = 0.1) -> np.ndarray:
    time = np.arange(int(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    return loudness * sum(np.sin(2 * np.pi * f0_hz * k * time) / k for k in range(1, 9))


def noise(seconds: float = 1.0, loudness: float = 0.1) -> np.ndarray:
    return np.random.default_rng(0).normal(size=int(seconds * SAMPLE_RATE_HZ)) * loudness


def test_steps_are_20_ms_and_stamped_in_their_middle():
    features = extract(noise(1.0))
    assert features.values.shape == (50, EXTRACTOR.feature_dim) == (50, Prosody.DIM)
    assert features.timestamps_s == pytest.approx((np.arange(50) + 0.5) * 0.02)


@pytest.mark.parametrize("num_mels", [20, 40, 64])
def test_every_dimension_has_one_name(num_mels):
    extractor = Prosody(Prosody.Settings(num_mels=num_mels))
    assert len(set(extractor.feature_names())) == extractor.feature_dim
    assert extractor.extract([clip(noise(0.1))])[0].values.shape[1] == extractor.feature_dim


@pytest.mark.parametrize("samples", [1, 100, HOP, 1024, 1025])
def test_the_shortest_sounds_have_at_least_one_finite_step(samples):
    features = extract(noise(1.0)[:samples])
    assert len(features.values) == max(1, samples // HOP)
    assert np.isfinite(features.values.astype(np.float16)).all()


@pytest.mark.parametrize("samples", [np.zeros(16000), np.full(16000, 1e-20), np.eye(1, 16000)[0]])
def test_silence_and_its_like_are_finite_and_unvoiced(samples):
    features = extract(samples)
    assert np.isfinite(features.values.astype(np.float16)).all()
    assert not column(features, "voiced").any()


def test_a_constant_offset_is_not_voiced():
    assert column(extract(np.ones(16000)), "voiced").mean() < 0.05


def test_values_are_of_order_one():
    values = extract(np.concatenate([voice(150), noise(), np.zeros(8000)])).values
    assert np.abs(values).max() <= 10
    assert np.percentile(np.abs(values), 99) < 6


@pytest.mark.parametrize("f0_hz", [80, 120, 220, 330, 450])
def test_the_pitch_of_a_voice_is_found(f0_hz):
    features = extract(voice(f0_hz))
    inner = slice(3, -3)
    found = 150 * 2 ** column(features, "pitch")[inner]
    assert column(features, "voiced")[inner].all()
    assert found == pytest.approx(np.full(len(found), f0_hz), rel=0.01)


def test_pitch_follows_a_glide():
    time = np.arange(32000) / SAMPLE_RATE_HZ
    glide = np.sin(2 * np.pi * (100 * time + 50 * time**2)).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(glide, 1024)[::HOP]
    ours = estimate_pitch(windows, SAMPLE_RATE_HZ, 60, 500).f0_hz
    middles = (np.arange(len(ours)) * HOP + (1024 - 267) / 2 + 80) / SAMPLE_RATE_HZ
    assert ours == pytest.approx(100 + 100 * middles, rel=0.03)


def test_noise_is_not_voiced():
    assert column(extract(noise()), "voiced").mean() < 0.1


def test_loudness_keeps_its_level():
    loud, soft = (column(extract(voice(150, loudness=gain)), "level")[10:-10].mean() for gain in (0.2, 0.02))
    assert loud - soft == pytest.approx(20 / 15, abs=1e-3)


def test_a_rising_voice_has_a_positive_slope_of_pitch():
    time = np.arange(16000) / SAMPLE_RATE_HZ
    glide = np.sin(2 * np.pi * (100 * time + 50 * time**2))
    assert np.median(column(extract(glide), "pitch_delta")[5:-5]) > 0.3


def test_noise_is_higher_and_flatter_than_a_voice():
    hiss, hum = extract(noise()), extract(voice(120))
    for name in ("centroid", "flatness", "zero_crossings", "rolloff_85"):
        assert column(hiss, name).mean() > column(hum, name).mean()


def test_syllables_show_as_modulation():
    time = np.arange(32000) / SAMPLE_RATE_HZ
    steady = voice(150, 2.0)
    syllables = steady * (0.55 + 0.45 * np.sin(2 * np.pi * 5 * time))
    modulation = [column(extract(sound), "modulation_long")[25:-25].mean() for sound in (steady, syllables)]
    assert modulation[1] > 5 * modulation[0]


def test_the_other_clips_of_a_batch_change_nothing():
    clips = [clip(noise(0.5)), clip(voice(200, 1.3)), clip(np.zeros(100))]
    together = [features.values for features in EXTRACTOR.extract(clips)]
    alone = [Prosody(Prosody.Settings()).extract([one])[0].values for one in clips]
    assert all(np.array_equal(one, other) for one, other in zip(together, alone, strict=True))


def test_another_process_gives_the_same_bits_whatever_its_threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    program = (
        "import hashlib; import numpy as np; from emi_ray.extractors.builtin.audio import Prosody; "
        "from emi_ray.media.clip import DecodedClip, Waveform; "
        "samples = (np.random.default_rng(0).normal(size=32000) * 0.1).astype(np.float32); "
        "extractor = Prosody(Prosody.Settings()); "
        "features = extractor.extract([DecodedClip('a', waveform=Waveform(samples, 16000))])[0]; "
        "print(hashlib.blake2b(features.values.tobytes()).hexdigest())"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == hashlib.blake2b(extract(noise(2.0)).values.tobytes()).hexdigest()


def test_chunks_leave_no_seam():
    """Single steps do not depend on where chunks begin: here they begin elsewhere, one step later."""
    long = noise(30.0)
    context_free = [NAMES.index(name) for name in ("mel_5", "centroid", "level", "voicing")]
    whole, shifted = (extract(samples).values[:, context_free] for samples in (long, long[HOP:]))
    assert whole[3:-3] == pytest.approx(shifted[2:-3], abs=1e-4)


def test_five_minutes_run_in_bounded_memory():
    samples = clip(np.tile(voice(150), 300))
    tracemalloc.start()
    features = EXTRACTOR.extract([samples])[0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(features.values) == 15000
    assert peak < 150e6


@pytest.mark.parametrize(
    ("samples", "rate", "reason"),
    [
        (np.zeros(0), 16000, "empty"),
        (np.zeros(100), 8000, "8000 Hz"),
        (np.full(100, np.nan), 16000, "not finite"),
    ],
)
def test_unusable_sound_is_refused_with_the_reason(samples, rate, reason):
    with pytest.raises(ClipError, match=reason):
        EXTRACTOR.extract([clip(samples, rate)])
