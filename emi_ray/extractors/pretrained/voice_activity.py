"""Detect whether audio contains speech. Imported only when a speech recogniser is built."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

SAMPLE_RATE_HZ = 16_000
_WINDOW = 512
"""Samples per probability of the detector: 32 ms."""


class VoiceActivity:
    """Silero VAD, whose weights are part of the package ``silero-vad``.

    A clip has speech if the probability of speech reaches ``threshold`` and stays above ``threshold`` − 0.15 for at
    least 250 ms, apart from pauses below 100 ms: the rule of the package. The detector runs on the CPU. A result
    does not depend on the other clips of a batch: shorter clips are padded at the end, and probabilities of the
    padding are ignored.

    Args:
        threshold: probability from 0 to 1.
    """

    def __init__(self, threshold: float) -> None:
        threads = torch.get_num_threads()
        from silero_vad import get_speech_timestamps_from_probs, load_silero_vad

        torch.set_num_threads(threads)  # importing the package sets one thread for the whole process
        self._threshold = threshold
        self._model: Any = load_silero_vad()
        self._find_segments: Any = get_speech_timestamps_from_probs

    def has_speech(self, sounds: Sequence[np.ndarray]) -> list[bool]:
        """Return for each waveform (samples,) at 16 kHz whether it has speech."""
        if not sounds:
            return []
        padded = np.zeros((len(sounds), max(_WINDOW, *map(len, sounds))), np.float32)
        for row, sound in zip(padded, sounds, strict=True):
            row[: len(sound)] = sound
        with torch.inference_mode():
            probabilities = self._model.audio_forward(torch.from_numpy(padded), SAMPLE_RATE_HZ).tolist()
        return [
            # Rounded up: the last window may be partly padding.
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
