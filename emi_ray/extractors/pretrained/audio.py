"""Self-supervised speech models from ``transformers``: hidden states, one step each 20 ms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic import Field, model_validator

from emi_ray.errors import ClipError, UserError
from emi_ray.extractors.base import Features
from emi_ray.extractors.pretrained.base import (
    LayerSettings,
    Pretrained,
    check_layer,
    select_layer,
)
from emi_ray.extractors.pretrained.device import features_to_host, to_device
from emi_ray.extractors.pretrained.windows import StepGeometry, Window, plan_windows
from emi_ray.media.clip import DecodedClip
from emi_ray.pretrained_weights.loading import load_processor

if TYPE_CHECKING:
    import torch

SAMPLE_RATE_HZ = 16_000
FAMILIES = ("wav2vec2", "wavlm", "hubert")
"""``model_type`` of the supported architectures: those that mask padding everywhere."""


class AudioSettings(LayerSettings):
    """How long audio is cut into windows.

    Each window has a context of ``overlap_s`` on either side of its kept part.
    """

    window_s: float = Field(20.0, ge=2, le=120, description="longest audio that is computed in one piece")
    overlap_s: float = Field(2.0, ge=0, le=20, description="context on either side of a window's kept part")

    @model_validator(mode="after")
    def _keeps_something(self) -> Self:
        if 4 * self.overlap_s > self.window_s:
            raise ValueError(f"overlap_s = {self.overlap_s} must be at most a quarter of window_s")
        return self


@dataclass(frozen=True)
class _Sound:
    """One clip on the device: ``samples`` normalised over the whole clip, ``statistics`` for a group norm."""

    samples: "torch.Tensor"
    num_steps: int
    statistics: Any


class HfAudio(Pretrained):
    """Any model like wav2vec 2.0: hidden states of one layer, about 50 steps per second.

    A clip of at most ``window_s`` is computed in one piece, and its features equal those of a direct, unpadded call
    of ``transformers``. A longer clip is normalised as a whole and cut into overlapping windows: the outputs of the
    convolutions equal those of a single pass, and only the attention is limited to the window.
    """

    NAME = "hf-audio"
    MODALITY = "audio"
    NEEDS = frozenset({"waveform"})
    LICENCE = "that of the weights"
    Settings = AudioSettings
    _BATCH_SIZE = (1_000, 24_000)
    _PASS_COST = (10, 1_000)

    def __init__(self, settings: AudioSettings) -> None:
        super().__init__(settings)
        from transformers import AutoFeatureExtractor

        from emi_ray.extractors.pretrained.speech_models import use_clip_statistics

        config = self._model.config
        if config.model_type not in FAMILIES or getattr(config, "add_adapter", False):
            raise UserError(
                f"weights = '{settings.weights}' are of type '{config.model_type}'; {self.NAME} serves "
                f"{', '.join(FAMILIES)}, without an adapter."
            )
        check_layer(settings.layer, config.num_hidden_layers)
        processor = load_processor(AutoFeatureExtractor, self._folder)
        self._normalise = bool(processor.do_normalize)
        self._geometry = StepGeometry.of(config.conv_kernel, config.conv_stride)
        self._clip_norm = use_clip_statistics(self._backbone)

    @property
    def _backbone(self) -> Any:
        return self._model

    def extract(self, clips: Sequence[DecodedClip]) -> list[Features]:
        """Compute features (T, D) of each clip, in the dtype of
        :func:`~emi_ray.extractors.pretrained.device.features_to_host`. Windows of all clips are batched by length.

        Raises:
            ClipError: the audio is not at 16 kHz, or shorter than one step needs.
        """
        import torch

        num_steps = [self._count_steps(clip) for clip in clips]
        samples = to_device([clip.waveform.samples for clip in clips if clip.waveform], self._device)
        with torch.inference_mode():
            sounds = [self._prepare(sound, count) for sound, count in zip(samples, num_steps, strict=True)]
        windows = [(sound, window) for sound in sounds for window in self._windows(sound.num_steps)]
        lengths = [window.num_steps for _, window in windows]
        kept: list[Mapping[str, torch.Tensor]] = [{} for _ in windows]
        with torch.inference_mode():
            for batch in self._batches(lengths):
                for index, parts in zip(batch, self._forward([windows[i] for i in batch]), strict=True):
                    kept[index] = parts
            return self._join(sounds, kept)

    def _count_steps(self, clip: DecodedClip) -> int:
        assert clip.waveform is not None, "the caller gives every clip its needs"
        samples, rate = clip.waveform.samples, clip.waveform.sample_rate_hz
        if rate != SAMPLE_RATE_HZ:
            raise ClipError("audio", f"the audio has a sample rate of {rate} Hz, not {SAMPLE_RATE_HZ} Hz")
        num_steps = self._geometry.num_steps(len(samples))
        if num_steps == 0:
            least = self._geometry.receptive
            raise ClipError("audio", f"the audio has {len(samples)} samples; one step needs {least}")
        return num_steps

    def _prepare(self, samples: "torch.Tensor", num_steps: int) -> _Sound:
        """Normalise a clip on the device, like the feature extractor of ``transformers``."""
        if self._normalise:
            import torch

            # The constant and the uncorrected variance are those of transformers' feature extractor.
            variance, mean = torch.var_mean(samples, correction=0)
            samples = (samples - mean) / (variance + 1e-7).sqrt()
        statistics = self._clip_norm.statistics(samples) if self._clip_norm else None
        return _Sound(samples, num_steps, statistics)

    def _windows(self, num_steps: int) -> list[Window]:
        steps_per_s = SAMPLE_RATE_HZ / self._geometry.stride
        size, overlap = (round(s * steps_per_s) for s in (self.settings.window_s, self.settings.overlap_s))
        return plan_windows(num_steps, size, overlap)

    def _forward(self, batch: Sequence[tuple[_Sound, Window]]) -> list[Mapping[str, "torch.Tensor"]]:
        """Compute the kept steps of each window: ``features`` and the values that :meth:`_heads` adds."""
        import torch

        lengths = [self._geometry.num_samples(window.num_steps) for _, window in batch]
        padded = torch.zeros(len(batch), max(lengths), device=self._device, dtype=self._model.dtype)
        for row, (sound, window), length in zip(padded, batch, lengths, strict=True):
            start = window.first * self._geometry.stride
            row[:length] = sound.samples[start : start + length]
        inputs = {"input_values": padded}
        # Without padding no mask is passed, so that the result equals that of a direct call of the model.
        if min(lengths) < max(lengths):
            # torch.tensor(…, device=…) would wait until the device has finished the passes before.
            ends = to_device([np.array(lengths)], self._device)[0][:, None]
            inputs["attention_mask"] = (torch.arange(max(lengths), device=self._device) < ends).long()
        if self._clip_norm:
            self._clip_norm.clips = [sound.statistics for sound, _ in batch]
        output = self._model(**inputs, output_hidden_states=self.settings.layer != "last")
        steps = {"features": select_layer(output, self.settings.layer), **self._heads(output)}
        return [
            {name: rows[index, window.kept] for name, rows in steps.items()}
            for index, (_, window) in enumerate(batch)
        ]

    def _heads(self, output: Any) -> Mapping[str, "torch.Tensor"]:
        """Return further values per step, each (rows, T)."""
        return {}

    def _join(self, sounds: Sequence[_Sound], kept: Sequence[Mapping[str, "torch.Tensor"]]) -> list[Features]:
        import torch

        joined = {name: torch.cat([parts[name] for parts in kept]) for name in kept[0]}
        features = [joined.pop("features")]
        counts = [sound.num_steps for sound in sounds]
        # One transfer for all clips of the batch instead of one for each.
        [whole], further = features_to_host(features, self._model.dtype, list(joined.values()))
        values, *extras = (np.split(array, np.cumsum(counts)[:-1]) for array in (whole, *further))
        return [
            Features(
                values[index],
                self._geometry.times_s(count, SAMPLE_RATE_HZ),
                {name: parts[index] for name, parts in zip(joined, extras, strict=True)},
            )
            for index, count in enumerate(counts)
        ]


class Wav2Vec2Settings(AudioSettings):
    """Settings of wav2vec 2.0 base."""

    weights: str = "facebook/wav2vec2-base"


class Wav2Vec2(HfAudio):
    """wav2vec 2.0 base, pretrained on read English without labels."""

    NAME = "wav2vec2"
    LICENCE = "Apache-2.0"
    DIM = 768
    Settings = Wav2Vec2Settings


class WavLMSettings(AudioSettings):
    """Settings of WavLM large."""

    weights: str = "microsoft/wavlm-large"


class WavLM(HfAudio):
    """WavLM large."""

    NAME = "wavlm"
    LICENCE = "CC-BY-SA-3.0"
    DIM = 1024
    Settings = WavLMSettings


class HubertSettings(AudioSettings):
    """Settings of HuBERT large."""

    weights: str = "facebook/hubert-large-ls960-ft"


class Hubert(HfAudio):
    """HuBERT large, fine-tuned to recognise read English."""

    NAME = "hubert"
    LICENCE = "Apache-2.0"
    DIM = 1024
    Settings = HubertSettings


class EmotionSettings(AudioSettings):
    """Settings of audeering's emotion model."""

    weights: str = "audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim"


class Wav2Vec2Emotion(HfAudio):
    """wav2vec 2.0 fine-tuned on emotional speech, with its regression head applied to every step.

    The extras ``arousal``, ``dominance`` and ``valence`` (about 0 to 1) are the head's output for each step's last
    hidden state. The original model applies the head to the *mean* hidden state of a clip. Because the head has a
    tanh, the mean of an extra over the steps is close to that value but not equal.
    """

    NAME = "wav2vec2-emotion"
    EXTRAS = ("arousal", "dominance", "valence")
    LICENCE = "CC-BY-NC-SA-4.0"
    DIM = 1024
    Settings = EmotionSettings

    def _model_class(self) -> Any:
        from emi_ray.extractors.pretrained.speech_models import EmotionModel

        return EmotionModel

    @property
    def _backbone(self) -> Any:
        return self._model.wav2vec2

    def _heads(self, output: Any) -> Mapping[str, "torch.Tensor"]:
        logits = self._model.classifier(output.last_hidden_state)
        return {name: logits[..., index] for index, name in enumerate(self.EXTRAS)}
