"""Compute Whisper's spectrogram on the model's device. Imported only when a model is built."""

from collections.abc import Sequence
from typing import Any

import torch


class LogMel:
    """The spectrogram of ``transformers``' ``WhisperFeatureExtractor``, in batches and without leaving the device.

    It is the power of a short-time Fourier transform, summed into mel bands, log10, clipped at 8 below the clip's
    maximum, then (x + 4) / 4.

    Args:
        extractor: a ``WhisperFeatureExtractor``. Its dither (random noise) is not applied.
    """

    def __init__(self, extractor: Any, device: torch.device) -> None:
        self._n_fft, self._hop = extractor.n_fft, extractor.hop_length
        self._window = torch.hann_window(self._n_fft, dtype=torch.float32, device=device)
        self._bands = torch.tensor(extractor.mel_filters, dtype=torch.float32, device=device).T

    def __call__(
        self, sounds: Sequence[torch.Tensor], num_samples: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the spectrograms of waveforms.

        Args:
            sounds: N waveforms (samples,).
            num_samples: length to which all are padded with zeros; by default that of the longest.

        Returns:
            Spectrograms (N, bands, frames) float32, and masks (N, frames) int32 that are 1 where the waveform has
            samples.
        """
        longest = max(len(sound) for sound in sounds)
        shape = len(sounds), longest if num_samples is None else num_samples
        padded = torch.zeros(shape, dtype=torch.float32, device=self._window.device)
        mask = torch.zeros(shape, dtype=torch.int32, device=self._window.device)
        for row, there, sound in zip(padded, mask, sounds, strict=True):
            row[: len(sound)] = sound
            there[: len(sound)] = 1
        spectrum = torch.stft(padded, self._n_fft, self._hop, window=self._window, return_complex=True)
        # Whisper drops the last frame, so that there is one frame per hop.
        power = (spectrum[..., :-1].abs() ** 2).contiguous()
        levels = (self._bands @ power).clamp_min(1e-10).log10()
        loudest = levels.amax(dim=(1, 2), keepdim=True)
        return (torch.maximum(levels, loudest - 8) + 4) / 4, mask[:, :: self._hop][:, : levels.shape[2]]
