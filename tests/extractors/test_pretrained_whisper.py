"""Whisper's transcripts, and their use by a text extractor."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_checkpoints import RATE_HZ, WORDS, make_clip, voice
from transformers import AutoProcessor, WhisperFeatureExtractor, WhisperForConditionalGeneration

from emi_ray.config import ExtractorSettings, MediaSettings
from emi_ray.errors import ClipError, UserError
from emi_ray.extractors import specify, specify_transcriber
from emi_ray.extractors.base import fingerprint
from emi_ray.extractors.pretrained.spectrogram import LogMel
from emi_ray.extractors.pretrained.voice_activity import VoiceActivity
from emi_ray.extractors.pretrained.whisper import Heard, Whisper, WhisperSettings
from emi_ray.media.clip import DecodedClip, Waveform


def build(folder: Path, **settings: object) -> Whisper:
    """The tiny model without the detector of speech, which knows that the made voices are none."""
    wanted = {"dtype": "float32", "language": "en", "vad": False, **settings}
    return Whisper(WhisperSettings(weights=str(folder), **wanted))


def texts(whisper: Whisper, clips: list[DecodedClip]) -> list[str]:
    return [heard.text for heard in whisper.transcribe(clips)]


def test_a_short_clip_says_what_a_direct_call_says(whisper):
    clip = make_clip(1, seconds=2.5)
    processor = AutoProcessor.from_pretrained(whisper)
    model = WhisperForConditionalGeneration.from_pretrained(whisper).eval()
    inputs = processor(clip.waveform.samples, sampling_rate=RATE_HZ, return_tensors="pt")
    with torch.inference_mode():
        tokens = model.generate(**inputs, language="en", task="transcribe")
    expected = processor.batch_decode(tokens, skip_special_tokens=True)[0].strip()
    found = texts(build(whisper), [clip])[0]
    assert found == expected
    assert set(found.split()) <= set(WORDS)


def test_all_segments_of_a_long_clip_are_joined(whisper):
    clip = make_clip(3, seconds=70)
    processor = AutoProcessor.from_pretrained(whisper)
    model = WhisperForConditionalGeneration.from_pretrained(whisper).eval()
    inputs = processor(
        clip.waveform.samples,
        sampling_rate=RATE_HZ,
        return_tensors="pt",
        truncation=False,
        padding="longest",
        return_attention_mask=True,
    )
    with torch.inference_mode():
        wanted = {"language": "en", "task": "transcribe", "return_timestamps": True}
        segments = model.generate(**inputs, **wanted, return_segments=True)["segments"][0]
    assert len(segments) > 1
    parts = [processor.decode(segment["tokens"], skip_special_tokens=True) for segment in segments]
    assert texts(build(whisper), [clip])[0] == "".join(parts).strip()


def test_no_clip_changes_what_another_says(whisper):
    clips = [make_clip(seed, seconds=seconds) for seed, seconds in enumerate([2, 33, 4, 45, 1])]
    extractor = build(whisper, batch_size=3)
    alone = [extractor.transcribe([clip])[0] for clip in clips]
    assert extractor.transcribe(clips) == alone
    assert extractor.transcribe(clips[::-1])[::-1] == alone


def test_sound_becomes_text_features(whisper, bert):
    clips = [replace(make_clip(seed), transcript=None) for seed in range(2)]
    recognised = texts(build(whisper), clips)
    heard = [replace(clip, transcript=text) for clip, text in zip(clips, recognised, strict=True)]
    wanted = ExtractorSettings(name="gte-base", settings={"weights": str(bert)})
    found = specify("text", wanted, MediaSettings()).build().extract(heard)
    assert [features.values.shape for features in found] == [(1, 24), (1, 24)]


def test_language_is_detected_unless_given_and_an_unknown_one_is_refused(whisper):
    settings = WhisperSettings(weights=str(whisper), dtype="float32", vad=False)
    assert texts(Whisper(settings), [make_clip(0)])[0]
    with pytest.raises(UserError, match=r"language = 'xx'.*en, es"):
        Whisper(settings.model_copy(update={"language": "xx"}))


def test_another_sample_rate_is_refused(whisper):
    clip = DecodedClip("a", waveform=Waveform(make_clip(0).waveform.samples, 8_000))
    with pytest.raises(ClipError, match="sample rate of 8000 Hz"):
        build(whisper).transcribe([clip])


def test_the_language_decides_the_fingerprint_and_the_batch_size_does_not(whisper):
    def of(**settings: object) -> str:
        resolved = Whisper.resolve(WhisperSettings(weights=str(whisper), **settings))
        return fingerprint(Whisper.identity(resolved, MediaSettings()))

    assert of(batch_size=1) == of(batch_size=7)
    changes = [{"language": "es"}, {"vad": False}, {"vad_threshold": 0.4}, {"no_speech_threshold": 0.5}]
    changes.append({"logprob_threshold": -0.5})
    assert len({of(), *(of(**change) for change in changes)}) == 6


def test_a_clip_without_speech_is_not_given_to_whisper(whisper, monkeypatch):
    clips = [make_clip(seed, seconds=seconds) for seed, seconds in enumerate([2, 33, 3, 40])]
    recogniser, wordless = build(whisper, vad=True), {len(clip.waveform.samples) for clip in clips[2:]}
    monkeypatch.setattr(
        VoiceActivity, "has_speech", lambda self, sounds: [len(sound) not in wordless for sound in sounds]
    )
    heard = recogniser.transcribe(clips)
    assert heard == [*build(whisper).transcribe(clips[:2]), Heard("", False), Heard("", False)]


def test_what_is_no_speech_in_itself_gives_no_words(whisper):
    """As Whisper's own thresholds have it: here every segment counts as silent, and none as certain."""
    clips = [make_clip(0, seconds=2), make_clip(1, seconds=35)]
    strict = build(whisper, no_speech_threshold=0.0, logprob_threshold=0.0)
    assert strict.transcribe(clips) == [Heard(""), Heard("")]
    assert all(texts(build(whisper, no_speech_threshold=1.0), clips))


@pytest.mark.parametrize(
    "wrong", [{"vad_threshold": 0.0}, {"vad_threshold": 1.0}, {"no_speech_threshold": 2}]
)
def test_thresholds_are_bounded(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        specify_transcriber(ExtractorSettings(name="whisper", settings=wrong), MediaSettings())


@pytest.mark.parametrize("seconds", [(0.4, 3.0), (30.0, 7.123), (31.0, 42.37)])
def test_the_spectrogram_is_that_of_transformers(seconds):
    extractor = WhisperFeatureExtractor(feature_size=128)
    sounds = [voice(length, seed).samples for seed, length in enumerate(seconds)]
    fits = max(seconds) <= 30
    options = {} if fits else {"truncation": False, "padding": "longest", "return_attention_mask": True}
    expected = extractor(sounds, sampling_rate=16_000, return_tensors="pt", **options)
    tensors = [torch.from_numpy(sound) for sound in sounds]
    features, mask = LogMel(extractor, torch.device("cpu"))(tensors, extractor.n_samples if fits else None)
    torch.testing.assert_close(features, expected["input_features"], atol=1e-5, rtol=1e-5)
    if not fits:
        torch.testing.assert_close(mask, expected["attention_mask"].to(torch.int32))
