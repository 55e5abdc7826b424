"""Add noise with a given ratio to audio, and errors with a given rate to transcripts."""

from collections.abc import Sequence

import numpy as np

ERROR_SHARES = (0.6, 0.25, 0.15)
"""Shares of substitutions, deletions and insertions among word errors: our choice, since speech recognisers mostly
substitute words."""


def add_noise(samples: np.ndarray, snr_db: float, random: np.random.Generator) -> np.ndarray:
    """Add speech-shaped noise, with the long-term spectrum of the audio itself, to samples (N,) float32.

    The noise has the magnitudes of the audio's spectrum and random phases, so that it covers the frequencies of the
    voice. White noise with the same power would be mostly above them. The signal-to-noise ratio is that of the mean
    powers over the whole clip. A sum that would exceed full scale is scaled down.
    """
    spectrum = np.abs(np.fft.rfft(samples))
    phases = random.uniform(0, 2 * np.pi, len(spectrum))
    noise = np.fft.irfft(spectrum * np.exp(1j * phases), len(samples))
    power = float(np.mean(noise**2))
    if power == 0:
        return samples
    gain = np.sqrt(float(np.mean(samples.astype(np.float64) ** 2)) / power) * 10 ** (-snr_db / 20)
    mixed = samples + gain * noise
    return (mixed / max(1.0, float(np.abs(mixed).max()))).astype(np.float32)


def with_word_errors(text: str, rate: float, words: Sequence[str], random: np.random.Generator) -> str:
    """Return a transcript in which each word is affected by an error with probability ``rate``.

    It is substituted or deleted, or another word is inserted after it. Words are separated by spaces. With the same
    state of ``random``, a higher rate affects the same words and more.

    Args:
        words: the words from which substituted and inserted ones are drawn uniformly.
    """
    spelled = text.split()
    chances, others = random.random((len(spelled), 2)), random.integers(len(words), size=len(spelled))
    substituted, deleted, _ = ERROR_SHARES
    kept: list[str] = []
    for word, (hit, kind), other in zip(spelled, chances, others, strict=True):
        if hit >= rate or kind >= substituted + deleted:
            kept.append(word)
        if hit < rate and not substituted <= kind < substituted + deleted:
            kept.append(words[int(other)])
    return " ".join(kept)
