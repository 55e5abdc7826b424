"""The detector of speech with its real weights, on sounds that are made here."""

import numpy as np
import torch
from scipy.signal import lfilter

from emi_ray.extractors.pretrained.voice_activity import SAMPLE_RATE_HZ, VoiceActivity

TIMES_S = np.arange(4 * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ

VOWELS = ((730, 1090, 2440), (270, 2290, 3010), (530, 1840, 2480), (570, 840, 2410), (300, 870, 2240))
"""Three formants each, in Hz (Peterson and Barney 1952)."""

VOWEL_SAMPLES = int(0.18 * SAMPLE_RATE_HZ)


def chords() -> np.ndarray:
    """Four chords of plucked strings with six partials, (64000,)."""
    struck = []
    for chord in ((262, 330, 392), (220, 262, 330), (175, 220, 262), (196, 247, 294)):
        times = TIMES_S[:SAMPLE_RATE_HZ]
        tones = [np.sin(2 * np.pi * note * k * times) / k for note in chord for k in range(1, 7)]
        struck.append(np.sum(tones, axis=0) * np.exp(-2 * times))
    music = np.concatenate(struck)
    return 0.3 * music / np.abs(music).max()


def test_what_nobody_says_is_no_speech():
    noise = np.random.default_rng(0).normal(size=len(TIMES_S))
    sounds = {
        "silence": np.zeros(len(TIMES_S)),
        "no sample": np.zeros(0),
        "a few samples": np.full(5, 0.1),
        "faint noise": 0.001 * noise,
        "loud noise": 0.3 * noise,
        "tone": 0.3 * np.sin(2 * np.pi * 440 * TIMES_S),
        "hum": 0.1 * np.sin(2 * np.pi * 50 * TIMES_S),
        "sweep": 0.3 * np.sin(2 * np.pi * (100 + 600 * TIMES_S) * TIMES_S),
        "drum": 0.5 * noise * np.exp(-10 * (TIMES_S % 0.5)),
        "music": chords(),
    }
    answers = VoiceActivity(0.5).has_speech([sound.astype(np.float32) for sound in sounds.values()])
    assert dict(zip(sounds, answers, strict=True)) == dict.fromkeys(sounds, False)


def test_the_detector_leaves_the_threads_of_the_process_alone():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        VoiceActivity(0.5)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def vowels(pitch_hz: float) -> np.ndarray:
    """Two seconds of pulses through the resonances of five vowels, .18 s each, (32000,)."""
    pulses = np.diff(np.floor(np.arange(2 * SAMPLE_RATE_HZ) * pitch_hz / SAMPLE_RATE_HZ), prepend=0)
    spoken = []
    for index, start in enumerate(range(0, len(pulses), VOWEL_SAMPLES)):
        sound = pulses[start : start + VOWEL_SAMPLES]
        for formant_hz, bandwidth_hz in zip(VOWELS[index % 5], (80, 90, 120), strict=True):
            radius = np.exp(-np.pi * bandwidth_hz / SAMPLE_RATE_HZ)
            cosine = 2 * radius * np.cos(2 * np.pi * formant_hz / SAMPLE_RATE_HZ)
            sound = lfilter([1 - cosine + radius**2], [1, -cosine, radius**2], sound)
        spoken.append(sound * np.hanning(len(sound)))
    voice = np.concatenate(spoken)
    return 0.3 * voice / np.abs(voice).max()


def test_no_answer_depends_on_the_sounds_beside_it_and_the_threshold_decides():
    noise = 0.001 * np.random.default_rng(0).normal(size=SAMPLE_RATE_HZ)
    sounds = [
        sound.astype(np.float32) for sound in (vowels(120), noise, chords(), vowels(200), np.zeros(700))
    ]
    detector = VoiceActivity(0.5)
    together = detector.has_speech(sounds)
    assert together == [True, False, False, True, False]
    assert together == [detector.has_speech([sound])[0] for sound in sounds]
    assert VoiceActivity(0.005).has_speech([chords().astype(np.float32)]) == [True]
