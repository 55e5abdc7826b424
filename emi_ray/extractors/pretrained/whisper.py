"""Speech recognition with Whisper: audio → transcript."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import BaseModel, Field

from emi_ray.config import MediaSettings
from emi_ray.errors import ClipError, UserError, choices
from emi_ray.extractors.pretrained.base import (
    PretrainedSettings,
    check_pretrained,
    deciding_pretrained,
    definite_dtype,
    resolve_pretrained,
)
from emi_ray.extractors.pretrained.device import to_device
from emi_ray.media import MEDIA_VERSION
from emi_ray.media.clip import DecodedClip, Waveform
from emi_ray.pretrained_weights.checkpoint import Checkpoint
from emi_ray.pretrained_weights.loading import (
    choose_device,
    load_model,
    load_processor,
    quiet_transformers,
    use_tf32,
)
from emi_ray.schema import Need

if TYPE_CHECKING:
    from emi_ray.extractors.pretrained.voice_activity import VoiceActivity

_BATCH_SIZE = (2, 16)
"""Clips per batch on a CPU and on a GPU."""


@dataclass(frozen=True)
class Heard:
    """The result for one clip.

    Attributes:
        text: the transcript; empty if no words were recognised.
        has_speech: False if voice activity detection found no speech, so that Whisper was not run.
    """

    text: str
    has_speech: bool = True


class WhisperSettings(PretrainedSettings):
    """Which Whisper model, which language, and what counts as no speech. ``batch_size`` counts clips.

    Whisper hallucinates words for silence, noise and music. With ``vad``, voice activity detection is run first.
    ``no_speech_threshold`` and ``logprob_threshold`` are Whisper's own: a segment of 30 s is dropped if the
    probability of "no speech" is above the first and the mean log probability of its tokens is below the second.
    """

    weights: str = "openai/whisper-small"
    language: str | None = Field(None, description="for example 'en'; null: detected for each clip")
    vad: bool = Field(True, description="transcribe only clips in which Silero VAD finds speech")
    vad_threshold: float = Field(
        0.5, gt=0, lt=1, description="probability of speech from which a window counts as speech"
    )
    no_speech_threshold: float = Field(0.6, ge=0, le=1, description="see above; 1: no segment is dropped")
    logprob_threshold: float = Field(
        -1.0, le=0, description="see above; segments with a higher mean are never dropped"
    )


class Whisper:
    """Any Whisper checkpoint. It is built once per actor like an extractor, but returns text instead of features.

    Clips of up to 30 s are transcribed in one piece. Longer ones use Whisper's sequential long-form decoding, and
    the texts of all segments are joined. Decoding is greedy unless the checkpoint's generation settings say
    otherwise. The text of a clip does not depend on the other clips of the batch. Clips without speech are not
    transcribed (Silero VAD; settings ``vad`` and ``vad_threshold``).
    """

    NAME: ClassVar[str] = "whisper"
    NEEDS: ClassVar[frozenset[Need]] = frozenset({"waveform"})
    VERSION: ClassVar[int] = 2
    LICENCE: ClassVar[str] = "Apache-2.0"
    Settings: ClassVar[type[BaseModel]] = WhisperSettings

    def __init__(self, settings: WhisperSettings) -> None:
        from transformers import AutoProcessor, WhisperForConditionalGeneration

        from emi_ray.extractors.pretrained.spectrogram import LogMel

        folder = Checkpoint(settings.weights, settings.revision).locate()
        device = choose_device(settings.device)
        dtype = definite_dtype(settings.dtype)
        use_tf32(device, dtype)
        self._model: Any = load_model(WhisperForConditionalGeneration, folder, dtype, device)
        self._processor = load_processor(AutoProcessor, folder)
        self._log_mel = LogMel(self._processor.feature_extractor, device)
        self._options: dict[str, Any] = {
            **self._language_options(settings.language),
            "no_speech_threshold": settings.no_speech_threshold,
            "logprob_threshold": settings.logprob_threshold,
            "temperature": 0.0,  # a single greedy pass, without fallback to sampling when the mean probability is low
        }
        self._vad = _build_vad(settings)
        self._batch_size = settings.batch_size or _BATCH_SIZE[device.type == "cuda"]

    @classmethod
    def resolve(cls, settings: WhisperSettings) -> WhisperSettings:
        """Resolve the revision and the dtype, once, where the run is started.

        Raises:
            UserError: the weights are not available, or do not support the language.
        """
        resolved = resolve_pretrained(settings)
        generation = Checkpoint(resolved.weights, resolved.revision).read_json("generation_config.json")
        if generation:
            _check_language(
                settings.language, generation.get("is_multilingual"), generation.get("lang_to_id")
            )
        return resolved

    @classmethod
    def check(cls, settings: WhisperSettings) -> list[str]:
        """Return the reason why transcription cannot run now, if there is one."""
        return check_pretrained(settings)

    @classmethod
    def identity(cls, settings: WhisperSettings, media: MediaSettings) -> dict[str, Any]:
        """Return everything that determines a transcript. The fingerprint of transcripts is a hash of it."""
        identity = {
            "extractor": cls.NAME,
            "version": cls.VERSION,
            "settings": settings.model_dump(mode="json"),
            "media": media.deciding(cls.NEEDS),
            "media_version": MEDIA_VERSION,
        }
        return deciding_pretrained(identity)

    def use_less_memory(self) -> bool:
        """Halve the number of clips per batch."""
        if self._batch_size <= 1:
            return False
        self._batch_size //= 2
        return True

    def transcribe(self, clips: Sequence[DecodedClip]) -> list[Heard]:
        """Transcribe each clip, in order.

        Raises:
            ClipError: the audio has another sample rate than the model.
        """
        samples = [self._samples(clip.waveform) for clip in clips]
        # Batches of similar lengths need little padding.
        order = sorted(range(len(clips)), key=lambda index: len(samples[index]))
        spoken = self._with_speech(order, samples)
        one_piece = self._processor.feature_extractor.n_samples
        short = [index for index in spoken if len(samples[index]) <= one_piece]
        # The clips are still sorted by length, so the long ones follow the short ones.
        long = spoken[len(short) :]
        heard = [Heard("", has_speech=False)] * len(clips)
        for indices, transcribe in ((short, self._short), (long, self._long)):
            for batch in self._batches(indices):
                for index, text in zip(batch, transcribe([samples[i] for i in batch]), strict=True):
                    heard[index] = Heard(text.strip())
        return heard

    def _with_speech(self, indices: Sequence[int], samples: Sequence[np.ndarray]) -> list[int]:
        """Return those of ``indices`` whose samples have speech; all of them without voice activity detection."""
        if self._vad is None:
            return list(indices)
        found: list[int] = []
        for batch in self._batches(indices):
            answers = self._vad.has_speech([samples[index] for index in batch])
            found += [index for index, has_speech in zip(batch, answers, strict=True) if has_speech]
        return found

    def _batches(self, indices: Sequence[int]) -> list[Sequence[int]]:
        size = self._batch_size
        return [indices[start : start + size] for start in range(0, len(indices), size)]

    def _samples(self, waveform: Waveform | None) -> np.ndarray:
        assert waveform is not None, "the caller gives every clip its needs"
        rate = self._processor.feature_extractor.sampling_rate
        if waveform.sample_rate_hz != rate:
            reason = f"the audio has a sample rate of {waveform.sample_rate_hz} Hz, not {rate} Hz"
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
        is_multilingual = getattr(generation, "is_multilingual", False)
        _check_language(language, is_multilingual, getattr(generation, "lang_to_id", None))
        if not is_multilingual:
            return {}
        return {"task": "transcribe", **({"language": language} if language else {})}


def _check_language(
    language: str | None, is_multilingual: bool | None, lang_to_id: Mapping[str, int] | None
) -> None:
    """Check that the weights support the language, according to their generation settings.

    Raises:
        UserError: they do not support it.
    """
    if language is None:
        return
    if not is_multilingual:
        if language != "en":
            raise UserError(f"language = '{language}': these weights support English only.")
        return
    known = [token.strip("<|>") for token in lang_to_id or {}]
    if language not in known:
        raise UserError(f"language = '{language}': {choices(language, known)}")


def _build_vad(settings: WhisperSettings) -> "VoiceActivity | None":
    if not settings.vad:
        return None
    from emi_ray.extractors.pretrained.voice_activity import VoiceActivity

    return VoiceActivity(settings.vad_threshold)
