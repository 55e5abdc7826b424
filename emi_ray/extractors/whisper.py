"""Speech → transcript, by Whisper."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

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
from emi_ray.media import MEDIA_VERSION
from emi_ray.media.clip import DecodedClip, Waveform
from emi_ray.pretrained.checkpoint import Checkpoint
from emi_ray.pretrained.loading import choose_device, load_model, load_processor, quiet_transformers, use_tf32
from emi_ray.schema import Need

if TYPE_CHECKING:
    from emi_ray.extractors.voice_activity import VoiceActivity

_BATCH_SIZE = (2, 16)
"""Clips that are transcribed together, on a CPU and on a GPU."""


@dataclass(frozen=True)
class Heard:
    """What was recognised in one clip: ``text``, empty where no words were. ``has_speech`` is False where the
    detector of voice activity found nobody speaking, so that Whisper was not asked."""

    text: str
    has_speech: bool = True


class WhisperSettings(PretrainedSettings):
    """Which Whisper, in which language, and what is no speech. ``batch_size`` counts clips.

    Whisper invents words for silence, noise and music. With ``vad`` a detector of voice activity is asked first.
    ``no_speech_threshold`` and ``logprob_threshold`` are Whisper's own: a segment of 30 s is dropped where the
    probability of "no speech" is above the first and the mean log probability of its tokens is below the second.
    """

    weights: str = "openai/whisper-small"
    language: str | None = Field(None, description="such as 'en'; null: detected in each clip")
    vad: bool = Field(True, description="transcribe only clips in which Silero VAD finds speech")
    vad_threshold: float = Field(0.5, gt=0, lt=1, description="probability from which a window is speech")
    no_speech_threshold: float = Field(0.6, ge=0, le=1, description="1: no segment is dropped")
    logprob_threshold: float = Field(-1.0, le=0, description="a segment above it is never dropped")


class Whisper:
    """Any Whisper checkpoint. Built once per actor, as an extractor is; gives text instead of features.

    Clips of up to 30 s are transcribed in one piece. Longer ones go through Whisper's own sequential long
    form, and the text of all segments is joined. Decoding is greedy unless the checkpoint's generation
    settings say otherwise, and no clip's text depends on the clips beside it. Clips without speech are not
    transcribed (Silero VAD; the settings ``vad``, ``vad_threshold``).
    """

    NAME: ClassVar[str] = "whisper"
    NEEDS: ClassVar[frozenset[Need]] = frozenset({"waveform"})
    VERSION: ClassVar[int] = 2
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
        self._options: dict[str, Any] = {
            **self._language_options(settings.language),
            "no_speech_threshold": settings.no_speech_threshold,
            "logprob_threshold": settings.logprob_threshold,
            "temperature": 0.0,  # one greedy pass: a low mean probability asks for no second one
        }
        self._vad = _build_vad(settings)
        self._batch_size = settings.batch_size or _BATCH_SIZE[device.type == "cuda"]

    @classmethod
    def resolve(cls, settings: WhisperSettings) -> WhisperSettings:
        """Settle the revision and the dtype once, where the run is started.

        Raises:
            UserError: the weights cannot be had, or do not know the language.
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
            "media_version": MEDIA_VERSION,
        }
        return deciding_pretrained(identity)

    def use_less_memory(self) -> bool:
        """Halve the clips that are transcribed together."""
        if self._batch_size <= 1:
            return False
        self._batch_size //= 2
        return True

    def transcribe(self, clips: Sequence[DecodedClip]) -> list[Heard]:
        """What is said in each clip, in order.

        Raises:
            ClipError: the sound has another sample rate than the model.
        """
        samples = [self._samples(clip.waveform) for clip in clips]
        order = sorted(range(len(clips)), key=lambda index: len(samples[index]))
        spoken = self._with_speech(order, samples)
        one_piece = self._processor.feature_extractor.n_samples
        short = [index for index in spoken if len(samples[index]) <= one_piece]
        long = spoken[len(short) :]
        heard = [Heard("", has_speech=False)] * len(clips)
        for indices, transcribe in ((short, self._short), (long, self._long)):
            for batch in self._batches(indices):
                for index, text in zip(batch, transcribe([samples[i] for i in batch]), strict=True):
                    heard[index] = Heard(text.strip())
        return heard

    def _with_speech(self, indices: Sequence[int], samples: Sequence[np.ndarray]) -> list[int]:
        """Those of ``indices`` whose samples hold speech; all of them where nothing is asked of the detector."""
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
        is_multilingual = getattr(generation, "is_multilingual", False)
        _check_language(language, is_multilingual, getattr(generation, "lang_to_id", None))
        if not is_multilingual:
            return {}
        return {"task": "transcribe", **({"language": language} if language else {})}


def _check_language(
    language: str | None, is_multilingual: bool | None, lang_to_id: Mapping[str, int] | None
) -> None:
    """Refuse a language that the weights do not know, by what their generation settings say.

    Raises:
        UserError: they do not know it.
    """
    if language is None:
        return
    if not is_multilingual:
        if language != "en":
            raise UserError(f"language = '{language}': these weights know English only.")
        return
    known = [token.strip("<|>") for token in lang_to_id or {}]
    if language not in known:
        raise UserError(f"language = '{language}': {choices(language, known)}")


def _build_vad(settings: WhisperSettings) -> "VoiceActivity | None":
    if not settings.vad:
        return None
    from emi_ray.extractors.voice_activity import VoiceActivity

    return VoiceActivity(settings.vad_threshold)
