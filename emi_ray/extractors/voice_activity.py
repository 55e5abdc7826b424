"""Whether a sound holds speech. Imported only when a recogniser of speech is built."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

SAMPLE_RATE_HZ = 16_000
_WINDOW = 512
"""Samples of which the detector gives one probability: 32 ms."""


class VoiceActivity:
    """Silero VAD, whose weights come with the package ``silero-vad``.

    A clip holds speech where the probability of speech reaches ``threshold`` and stays within .15 of it for 250 ms or
    more, pauses below 100 ms included: the rule of the package. The detector runs on the CPU. No answer depends on
    the sounds beside it: shorter ones are padded at their ends, and what is said of the padding is not looked at.

    Args:
        threshold: from 0 to 1.
    """

    def __init__(self, threshold: float) -> None:
        threads = torch.get_num_threads()
        from silero_vad import get_speech_timestamps_from_probs, load_silero_vad

        torch.set_num_threads(threads)  # importing the package sets one thread for the whole process
        self._threshold = threshold
        self._model: Any = load_silero_vad()
        self._find_segments: Any = get_speech_timestamps_from_probs

    def has_speech(self, sounds: Sequence[np.ndarray]) -> list[bool]:
        """For each sound (samples,), 16,000 a second, whether somebody speaks in it."""
        if not sounds:
            return []
        padded = np.zeros((len(sounds), max(_WINDOW, *map(len, sounds))), np.float32)
        for row, sound in zip(padded, sounds, strict=True):
            row[: len(sound)] = sound
        with torch.inference_mode():
            probabilities = self._model.audio_forward(torch.from_numpy(padded), SAMPLE_RATE_HZ).tolist()
        return [
            bool(self._segments(of_windows[: -(-len(sound) // _WINDOW)], len(sound)))
            for of_windows, sound in zip(probabilities, sounds, strict=True)
        ]

    def _segments(self, probabilities: Sequence[float], num_samples: int) -> list[dict[str, int]]:
        found: list[dict[str, int]] = self._find_segments(
            probabilities,
            sampling_rate=SAMPLE_RATE_HZ,
            threshold=self._threshold,
            audio_length_samples=num_samples,
        )
        return found
