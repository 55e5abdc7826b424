"""Results do not depend on torch's default dtype, which ``transformers`` changes for the whole process while another
thread loads a model.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from tiny_checkpoints import images, make_clip, voice
from transformers import WhisperFeatureExtractor

from emi_ray.config import ExtractorSettings, MediaSettings
from emi_ray.extractors import specify
from emi_ray.extractors.pretrained.image_transform import ImageTransform, _per_channel, _weights
from emi_ray.extractors.pretrained.spectrogram import LogMel


@contextmanager
def while_a_model_is_loaded() -> Iterator[None]:
    torch.set_default_dtype(torch.bfloat16)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_spectrogram_is_the_same_whenever_it_was_prepared():
    sounds = [torch.from_numpy(voice(seconds, 1).samples) for seconds in (1.0, 0.4)]
    before = LogMel(WhisperFeatureExtractor(), torch.device("cpu"))
    expected, _ = before(sounds)
    with while_a_model_is_loaded():
        prepared_now = LogMel(WhisperFeatureExtractor(), torch.device("cpu"))
        found = before(sounds)[0], prepared_now(sounds)[0]
    torch.testing.assert_close(found, (expected, expected), rtol=0, atol=0)


def test_prepared_images_are_the_same_and_stay_so():
    transform = ImageTransform(32, (28, 28), "bicubic", (0.0171, 0.0175, 0.0174), (-2.118, -2.036, -1.804))
    pictures = torch.from_numpy(images(2, 40, 60, seed=1))
    expected = transform(pictures, torch.float32)
    _per_channel.cache_clear()
    _weights.cache_clear()
    with while_a_model_is_loaded():
        now = transform(pictures, torch.float32)
    afterwards = transform(pictures, torch.float32)  # with what was kept meanwhile
    torch.testing.assert_close((now, afterwards), (expected, expected), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("modality", "name", "checkpoint"),
    [
        ("vision", "dinov2-face", "dinov2"),
        ("audio", "hf-audio", "wav2vec2"),
        ("audio", "hf-audio", "wavlm"),
        ("text", "hf-text", "bert"),
    ],
)
def test_features_are_the_same(modality, name, checkpoint, request):
    settings = {"weights": str(request.getfixturevalue(checkpoint)), "dtype": "float32"}
    wanted = ExtractorSettings(name=name, settings=settings)
    extractor = specify(modality, wanted, MediaSettings()).build()
    clips = [make_clip(seed, seconds=seconds) for seed, seconds in ((1, 1.0), (2, 1.7))]
    expected = extractor.extract(clips)
    _per_channel.cache_clear()
    with while_a_model_is_loaded():
        found = extractor.extract(clips)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.values, other.values)
