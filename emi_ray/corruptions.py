"""Noise of a stated ratio in sound, and errors of a stated rate in transcripts."""

from collections.abc import Sequence

import numpy as np

ERROR_SHARES = (0.6, 0.25, 0.15)
"""Shares of substitutions, deletions and insertions among word errors: our choice, since recognisers of speech mostly
substitute words."""


def add_noise(samples: np.ndarray, snr_db: float, random: np.random.Generator) -> np.ndarray:
    """Sound (N,) float32 with speech-shaped noise: noise with the long-term spectrum of the sound itself.

    The noise is the sound with its phases drawn at random, so that it covers the frequencies of the voice. White
    noise of the same power would lie mostly above them. The ratio is that of the mean powers over the whole clip. A
    sum that would exceed full scale is made quieter.
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
    """A transcript in which each word is hit by an error with probability ``rate``: it is substituted or deleted, or
    another word is inserted behind it. Words are what spaces separate.

    With the same state of ``random`` a higher rate hits the same words and more.

    Args:
        words: from which substituted and inserted words are drawn, as often as they stand there.
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
