"""Speech models return the same as a direct, unpadded call of transformers, for any batches and windows."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoints import RATE_HZ, make_clip, save_speech_model, voice
from transformers import AutoFeatureExtractor, AutoModel, Wav2Vec2Config

from emi_ray.config import ExtractorSettings, MediaSettings
from emi_ray.errors import ClipError, UserError
from emi_ray.extractors import Extractor, specify
from emi_ray.media.clip import DecodedClip, Waveform


def build(name: str, folder: Path, **settings: object) -> Extractor:
    wanted = ExtractorSettings(name=name, settings={"weights": str(folder), "dtype": "float32", **settings})
    return specify("audio", wanted, MediaSettings()).build()


def direct(folder: Path, sound: Waveform, kind: type = AutoModel) -> object:
    processor, model = AutoFeatureExtractor.from_pretrained(folder), kind.from_pretrained(folder).eval()
    inputs = processor(sound.samples, sampling_rate=RATE_HZ, return_tensors="pt")
    with torch.inference_mode():
        return model(inputs["input_values"], output_hidden_states=True)


def assert_close(found: np.ndarray, expected: np.ndarray, relative: float = 1e-3) -> None:
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=relative, atol=relative * scale)


@pytest.fixture(params=["wav2vec2", "wavlm", "hubert"])
def speech(request) -> tuple[str, Path]:
    return request.param, request.getfixturevalue(request.param)


@pytest.mark.parametrize("seconds", [0.064, 1.0, 3.3])
def test_hidden_states_equal_a_direct_unpadded_call(speech, seconds):
    name, folder = speech
    clip = make_clip(1, seconds=seconds)
    found = build(name, folder).extract([clip])[0]
    assert_close(found.values, direct(folder, clip.waveform).last_hidden_state[0].numpy())


def test_padding_and_order_never_change_a_feature(speech):
    name, folder = speech
    clips = [make_clip(seed, seconds=seconds) for seed, seconds in enumerate([2.0, 0.5, 1.9, 1.7, 2.0])]
    extractor = build(name, folder, batch_size=10_000)
    together, backwards = extractor.extract(clips), extractor.extract(clips[::-1])[::-1]
    for clip, one, other in zip(clips, together, backwards, strict=True):
        expected = direct(folder, clip.waveform).last_hidden_state[0].numpy()
        assert_close(one.values, expected)
        assert_close(other.values, expected)


@pytest.mark.parametrize("layer", ["mean", 0, 2])
def test_any_layer_or_their_mean_can_be_taken(wav2vec2, layer):
    clip = make_clip(2)
    states = direct(wav2vec2, clip.waveform).hidden_states
    expected = torch.stack(states[1:]).mean(0) if layer == "mean" else states[layer]
    assert_close(build("hf-audio", wav2vec2, layer=layer).extract([clip])[0].values, expected[0].numpy())


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_windows_join_without_a_seam_below_attention(tmp_path, norm):
    """What lies below attention sees 0.2 s either way, less than the overlap: windows must not show."""
    folder = save_speech_model(tmp_path, "Wav2Vec2", norm)
    clip = make_clip(3, seconds=11.03)
    found = build("wav2vec2", folder, layer=0, window_s=4, overlap_s=0.5).extract([clip])[0]
    assert_close(found.values, direct(folder, clip.waveform).hidden_states[0][0].numpy())


@pytest.mark.parametrize(("family", "norm"), [("Wav2Vec2", "group"), ("WavLM", "layer"), ("Hubert", "layer")])
def test_windows_come_near_to_a_single_pass_above_attention(tmp_path, family, norm):
    """Attention reaches over a whole window, so here windows may show, but little."""
    folder = save_speech_model(tmp_path, family, norm, lively=False)
    clip = make_clip(4, seconds=12.0)
    found = build("hf-audio", folder, window_s=6, overlap_s=1.5).extract([clip])[0].values
    expected = direct(folder, clip.waveform).last_hidden_state[0].numpy()
    assert_close(found, expected, relative=1e-2)


def test_windows_of_many_clips_share_batches_and_come_back_in_order(wav2vec2):
    clips = [make_clip(seed, seconds=seconds) for seed, seconds in enumerate([5.0, 0.3, 9.1, 2.0])]
    extractor = build("wav2vec2", wav2vec2, window_s=4, overlap_s=0.5, batch_size=700)
    for clip, features in zip(clips, extractor.extract(clips), strict=True):
        assert_close(features.values, extractor.extract([clip])[0].values)


def test_timestamps_are_the_middles_of_the_steps(wav2vec2):
    times = build("wav2vec2", wav2vec2).extract([make_clip(0, seconds=2.0)])[0].timestamps_s
    assert len(times) == 99
    np.testing.assert_allclose(times[:2], [200 / RATE_HZ, 520 / RATE_HZ], rtol=1e-6)


def test_one_step_is_the_least_and_less_sound_is_refused(wav2vec2):
    extractor = build("wav2vec2", wav2vec2)
    shortest = DecodedClip("a", waveform=Waveform(voice(1, 1).samples[:400], RATE_HZ))
    assert extractor.extract([shortest])[0].values.shape == (1, 24)
    shorter = DecodedClip("b", waveform=Waveform(voice(1, 1).samples[:399], RATE_HZ))
    with pytest.raises(ClipError, match="399 samples; one step needs 400"):
        extractor.extract([shorter])


def test_silence_has_finite_features(speech):
    name, folder = speech
    clip = DecodedClip("silent", waveform=Waveform(np.zeros(8000, np.float32), RATE_HZ))
    assert np.isfinite(build(name, folder).extract([clip])[0].values).all()


def test_models_of_another_architecture_are_refused(bert):
    with pytest.raises(UserError, match=r"'bert'.*serves wav2vec2"):
        build("hf-audio", bert)


@pytest.fixture
def emotion(tmp_path, wav2vec2) -> Path:
    """audeering's layout around a known head: dense is the identity, out_proj reads three units of tanh."""
    hf_audio = save_speech_model(tmp_path / "backbone", "Wav2Vec2", "layer")
    backbone = load_file(hf_audio / "model.safetensors")
    weights = {f"wav2vec2.{name}": tensor for name, tensor in backbone.items()}
    weights["classifier.dense.weight"], weights["classifier.dense.bias"] = torch.eye(24), torch.zeros(24)
    weights["classifier.out_proj.weight"] = torch.zeros(3, 24)
    for label, (unit, gain) in enumerate([(5, 1.0), (9, 2.0), (2, -1.0)]):
        weights["classifier.out_proj.weight"][label, unit] = gain
    weights["classifier.out_proj.bias"] = torch.tensor([0.5, 0.6, 0.4])
    folder = tmp_path / "emotion"
    config = Wav2Vec2Config.from_pretrained(hf_audio)
    config.id2label = {0: "arousal", 1: "dominance", 2: "valence"}
    config.save_pretrained(folder)
    AutoFeatureExtractor.from_pretrained(hf_audio).save_pretrained(folder)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_emotion_head_gives_arousal_dominance_valence_of_every_step(emotion):
    clips = [make_clip(seed, seconds=1 + seed / 5) for seed in range(3)]
    for clip, found in zip(clips, build("wav2vec2-emotion", emotion).extract(clips), strict=True):
        expected = direct(emotion.parent / "backbone", clip.waveform).last_hidden_state[0].numpy()
        assert_close(found.values, expected)
        assert list(found.extras) == ["arousal", "dominance", "valence"]
        assert_close(found.extras["arousal"], 0.5 + np.tanh(expected[:, 5]))
        assert_close(found.extras["dominance"], 0.6 + 2 * np.tanh(expected[:, 9]))
        assert_close(found.extras["valence"], 0.4 - np.tanh(expected[:, 2]))


def test_emotion_head_reads_the_last_layer_whatever_layer_is_kept(emotion):
    clip = make_clip(1)
    last, first = (build("wav2vec2-emotion", emotion, layer=i).extract([clip])[0] for i in ("last", 1))
    np.testing.assert_allclose(last.extras["valence"], first.extras["valence"], rtol=1e-4)
    assert not np.allclose(last.values, first.values)


def test_emotion_head_that_is_missing_is_refused_rather_than_random(wav2vec2):
    with pytest.raises(UserError, match="lack"):
        build("wav2vec2-emotion", wav2vec2)
