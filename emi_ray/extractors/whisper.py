"""Speech → transcript, by Whisper."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, Field

from emi_ray.config import MediaSettings
from emi_ray.errors import ClipError, UserError, choices
from emi_ray.extractors.device import to_device
from emi_ray.extractors.pretrained import (
    PretrainedSettings,
    check_pretrained,
    deciding_pretrained,
    definite_dtype,
    resolve_pretrained,
)
from emi_ray.media.clip import DecodedClip, Waveform
from emi_ray.pretrained.checkpoint import Checkpoint
from emi_ray.pretrained.loading import choose_device, load_model, load_processor, quiet_transformers, use_tf32
from emi_ray.schema import Need

_BATCH_SIZE = (2, 16)
"""Clips that are transcribed together, on a CPU and on a GPU."""


class WhisperSettings(PretrainedSettings):
    """Which Whisper, and in which language. ``batch_size`` counts clips."""

    weights: str = "openai/whisper-small"
    language: str | None = Field(None, description="such as 'en'; null: detected in each clip")


class Whisper:
    """Any Whisper checkpoint. Built once per actor, as an extractor is; gives text instead of features.

    Clips of up to 30 s are transcribed in one piece. Longer ones go through Whisper's own sequential long
    form, and the text of all segments is joined. Decoding is greedy unless the checkpoint's generation
    settings say otherwise, and no clip's text depends on the clips beside it.
    """

    NAME: ClassVar[str] = "whisper"
    NEEDS: ClassVar[frozenset[Need]] = frozenset({"waveform"})
    VERSION: ClassVar[int] = 1
    LICENCE: ClassVar[str] = "Apache-2.0"
    Settings: ClassVar[type[BaseModel]] = WhisperSettings

    def __init__(self, settings: WhisperSettings) -> None:
        from transformers import AutoProcessor, WhisperForConditionalGeneration

        from emi_ray.extractors.spectrogram import LogMel

        folder = Checkpoint(settings.weights, settings.revision).locate()
        device = choose_device(settings.device)
        dtype = definite_dtype(settings.dtype)
        use_tf32(device, dtype)
        self._model: Any = load_model(WhisperForConditionalGeneration, folder, dtype, device)
        self._processor = load_processor(AutoProcessor, folder)
        self._log_mel = LogMel(self._processor.feature_extractor, device)
        self._options = self._language_options(settings.language)
        self._batch_size = settings.batch_size or _BATCH_SIZE[device.type == "cuda"]

    @classmethod
    def resolve(cls, settings: WhisperSettings) -> WhisperSettings:
        """Settle the revision and the dtype once, where the run is started."""
        return resolve_pretrained(settings)

    @classmethod
    def check(cls, settings: WhisperSettings) -> list[str]:
        """Why transcription cannot run now, if so."""
        return check_pretrained(settings)

    @classmethod
    def identity(cls, settings: WhisperSettings, media: MediaSettings) -> dict[str, Any]:
        """Everything that decides a transcript; the fingerprint of transcripts is a hash of it."""
        identity = {
            "extractor": cls.NAME,
            "version": cls.VERSION,
            "settings": settings.model_dump(mode="json"),
            "media": media.deciding(cls.NEEDS),
        }
        return deciding_pretrained(identity)

    def use_less_memory(self) -> bool:
        """Halve the clips that are transcribed together."""
        if self._batch_size <= 1:
            return False
        self._batch_size //= 2
        return True

    def transcribe(self, clips: Sequence[DecodedClip]) -> list[str]:
        """The words of each clip; an empty string where none were recognised.

        Raises:
            ClipError: the sound has another sample rate than the model.
        """
        samples = [self._samples(clip.waveform) for clip in clips]
        order = sorted(range(len(clips)), key=lambda index: len(samples[index]))
        one_piece = self._processor.feature_extractor.n_samples
        short = [index for index in order if len(samples[index]) <= one_piece]
        long = order[len(short) :]
        texts = [""] * len(clips)
        for indices, transcribe in ((short, self._short), (long, self._long)):
            for start in range(0, len(indices), self._batch_size):
                batch = indices[start : start + self._batch_size]
                for index, text in zip(batch, transcribe([samples[i] for i in batch]), strict=True):
                    texts[index] = text.strip()
        return texts

    def _samples(self, waveform: Waveform | None) -> np.ndarray:
        assert waveform is not None, "the caller gives every clip its needs"
        rate = self._processor.feature_extractor.sampling_rate
        if waveform.sample_rate_hz != rate:
            reason = f"the sound has {waveform.sample_rate_hz} samples a second, not {rate}"
            raise ClipError("transcript", reason)
        return waveform.samples

    def _short(self, samples: Sequence[np.ndarray]) -> list[str]:
        features, _ = self._spectrograms(samples, self._processor.feature_extractor.n_samples)
        return self._generate({"input_features": features})

    def _long(self, samples: Sequence[np.ndarray]) -> list[str]:
        features, mask = self._spectrograms(samples)
        return self._generate({"input_features": features, "attention_mask": mask}, return_timestamps=True)

    def _spectrograms(self, samples: Sequence[np.ndarray], num_samples: int | None = None) -> Any:
        features, mask = self._log_mel(to_device(samples, self._model.device), num_samples)
        return features.to(self._model.dtype), mask

    def _generate(self, inputs: dict[str, Any], **options: Any) -> list[str]:
        import torch

        with torch.inference_mode(), quiet_transformers():
            tokens = self._model.generate(**inputs, **self._options, **options)
        return self._processor.batch_decode(tokens, skip_special_tokens=True)

    def _language_options(self, language: str | None) -> dict[str, str]:
        generation = self._model.generation_config
        if not getattr(generation, "is_multilingual", False):
            if language not in (None, "en"):
                raise UserError(f"language = '{language}': these weights know English only.")
            return {}
        known = [token.strip("<|>") for token in generation.lang_to_id]
        if language is not None and language not in known:
            raise UserError(f"language = '{language}': {choices(language, known)}")
        return {"task": "transcribe", **({"language": language} if language else {})}
