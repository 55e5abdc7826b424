"""Image backbones return the same as a direct call of transformers."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_checkpoints import images, make_clip, save_image_processor
from transformers import AutoImageProcessor, AutoModel, ResNetConfig, ResNetModel

from emi_ray.config import ExtractorSettings, MediaSettings
from emi_ray.errors import UserError
from emi_ray.extractors import Extractor, specify
from emi_ray.extractors.pretrained.image_transform import ImageTransform, resize_in_two_passes


def build(name: str, folder: Path, **settings: object) -> Extractor:
    wanted = ExtractorSettings(name=name, settings={"weights": str(folder), "dtype": "float32", **settings})
    return specify("vision", wanted, MediaSettings()).build()


def direct(folder: Path, pictures: np.ndarray) -> torch.nn.Module:
    """The model's own output for (N, H, W, 3) pictures, one at a time."""
    processor, model = AutoImageProcessor.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        return [
            model(**processor(picture, return_tensors="pt"), output_hidden_states=True)
            for picture in pictures
        ]


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * scale)


@pytest.mark.parametrize(("name", "fixture"), [("dinov2-face", "dinov2"), ("vit-face", "vit")])
def test_class_tokens_of_crops_equal_a_direct_call(name, fixture, request):
    folder, clip = request.getfixturevalue(fixture), make_clip(1, num_images=4)
    found = build(name, folder).extract([clip])[0]
    expected = [output.last_hidden_state[0, 0].numpy() for output in direct(folder, clip.faces.crops)]
    assert_close(found.values, np.stack(expected))
    np.testing.assert_array_equal(found.timestamps_s, clip.faces.timestamps_s)


def test_whole_frames_are_resized_and_cropped_as_the_processor_does(dinov2):
    clip = make_clip(2)
    found = build("dinov2-frame", dinov2).extract([clip])[0]
    expected = [output.last_hidden_state[0, 0].numpy() for output in direct(dinov2, clip.frames.pixels)]
    assert_close(found.values, np.stack(expected))


@pytest.mark.parametrize("layer", ["last", "mean", 1])
def test_mean_pooling_leaves_the_class_token_out_at_any_layer(dinov2, layer):
    clip = make_clip(3, num_images=2)
    found = build("hf-vision", dinov2, pooling="mean", layer=layer).extract([clip])[0]
    for values, output in zip(found.values, direct(dinov2, clip.faces.crops), strict=True):
        hidden = {"last": output.last_hidden_state, "mean": torch.stack(output.hidden_states[1:]).mean(0)}
        expected = hidden.get(layer, output.hidden_states[1])[0, 1:].mean(0)
        assert_close(values, expected.numpy())


def test_features_do_not_depend_on_batch_composition_or_order(dinov2):
    clips = [make_clip(seed, num_images=count) for seed, count in enumerate([5, 1, 9, 2])]
    together = build("dinov2-face", dinov2, batch_size=4).extract(clips)
    apart = build("dinov2-face", dinov2, batch_size=64)
    backwards = apart.extract(clips[::-1])[::-1]
    for clip, one, other in zip(clips, together, backwards, strict=True):
        assert len(one.values) == len(clip.faces.crops)
        np.testing.assert_allclose(one.values, apart.extract([clip])[0].values, atol=1e-4)
        np.testing.assert_allclose(one.values, other.values, atol=1e-4)


def test_clips_of_different_crop_sizes_share_a_batch(dinov2):
    clips = [make_clip(0, side=48), make_clip(1, side=100)]
    extractor = build("dinov2-face", dinov2)
    for clip, features in zip(clips, extractor.extract(clips), strict=True):
        np.testing.assert_allclose(features.values, extractor.extract([clip])[0].values, atol=1e-4)


def test_clips_of_different_aspect_ratios_get_the_features_that_they_have_alone(dinov2, tmp_path):
    folder = shutil.copytree(dinov2, tmp_path / "dinov2")
    save_image_processor(folder, "BitImageProcessor", size={"shortest_edge": 56}, do_center_crop=False)
    clips = [make_clip(seed, num_images=2 + seed) for seed in range(5)]
    for seed in (1, 3):
        upright = images(2 + seed, 120, 90, seed)
        clips[seed] = replace(clips[seed], frames=replace(clips[seed].frames, pixels=upright))
    extractor = build("hf-vision", folder, input="frames", batch_size=4)
    for clip, features in zip(clips, extractor.extract(clips), strict=True):
        assert_close(features.values, extractor.extract([clip])[0].values)
        np.testing.assert_array_equal(features.timestamps_s, clip.frames.timestamps_s)


@pytest.mark.parametrize(("height", "width"), [(56, 56), (64, 64), (90, 120), (31, 20)])
@pytest.mark.parametrize("fixture", ["dinov2", "vit"])
def test_pixels_equal_those_of_the_image_processor(fixture, height, width, request):
    processor = AutoImageProcessor.from_pretrained(request.getfixturevalue(fixture))
    pictures = images(3, height, width, seed=5)
    found = ImageTransform.from_processor(processor)(torch.from_numpy(pictures), torch.float32)
    expected = processor(list(pictures), return_tensors="pt")["pixel_values"]
    one_level = 1.01 / 255 / 0.22
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 2 * one_level
    assert (found - expected).abs().mean() <= one_level / 20


@pytest.mark.parametrize("shortest", [None, 33, 40])
@pytest.mark.parametrize(("height", "width"), [(40, 40), (41, 37), (37, 80), (60, 36), (49, 47)])
def test_a_crop_beyond_the_image_is_filled_as_the_processor_does(
    tmp_path, monkeypatch, height, width, shortest
):
    wanted = {"do_resize": shortest is not None, "size": {"shortest_edge": shortest or 48}}
    crop = {"do_center_crop": True, "crop_size": {"height": 48, "width": 47}}
    save_image_processor(tmp_path, "BitImageProcessor", **wanted, **crop)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    pictures = images(2, height, width, seed=5)
    transform = ImageTransform.from_processor(processor)
    expected = processor(list(pictures), return_tensors="pt")["pixel_values"]

    def assert_equal_pixels() -> None:
        found = transform(torch.from_numpy(pictures), torch.float32)
        assert found.shape == expected.shape
        assert (found - expected).abs().max() <= 2.02 / 255 / 0.22

    assert_equal_pixels()
    monkeypatch.setattr(
        ImageTransform,
        "_resized",
        lambda self, pixels, size, *kept: resize_in_two_passes(pixels, size, self.filter, *kept),
    )
    assert_equal_pixels()


def test_whole_image_sees_what_the_centre_crop_cuts_off(dinov2):
    clip = make_clip(4, side=64)
    edited = clip.faces.crops.copy()
    edited[:, :3] = 255 - edited[:, :3]
    other = make_clip(4, side=64)
    other.faces.crops[:] = edited
    for whole, differs in ((False, False), (True, True)):
        extractor = build("dinov2-face", dinov2, whole_image=whole)
        one, two = (features.values for features in extractor.extract([clip, other]))
        assert np.allclose(one, two, atol=1e-4) != differs


def test_generic_extractor_needs_what_its_input_setting_names(dinov2):
    for source in ("faces", "frames"):
        wanted = ExtractorSettings(name="hf-vision", settings={"weights": str(dinov2), "input": source})
        spec = specify("vision", wanted, MediaSettings())
        assert spec.needs == {source}
        assert ("frame_side_px" in spec.identity["media"]) == (source == "frames")


def test_pooling_cls_is_refused_without_a_class_token(tmp_path):
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
    ResNetModel(config).save_pretrained(tmp_path)
    save_image_processor(tmp_path, "ViTImageProcessor", size={"height": 32, "width": 32})
    with pytest.raises(UserError, match="pooling: mean"):
        build("hf-vision", tmp_path)
    clip = make_clip(0)
    found = build("hf-vision", tmp_path, pooling="mean").extract([clip])[0]
    outputs = direct(tmp_path, clip.faces.crops)
    expected = [output.last_hidden_state[0].mean((1, 2)).numpy() for output in outputs]
    assert_close(found.values, np.stack(expected))


def test_a_layer_that_is_not_there_is_refused(dinov2):
    with pytest.raises(UserError, match=r"layers 0 \(embeddings\) to 3"):
        build("dinov2-face", dinov2, layer=4)


def test_bfloat16_comes_near_to_float32(dinov2):
    clip = make_clip(5)
    exact, rough = (
        build("dinov2-face", dinov2, dtype=dtype).extract([clip])[0].values
        for dtype in ("float32", "bfloat16")
    )
    assert rough.dtype == np.float16
    assert np.corrcoef(exact.ravel(), rough.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("filter", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("side", "size"), [(256, (224, 224)), (48, (64, 64)), (100, (37, 211))])
def test_what_a_gpu_makes_of_bytes_is_what_the_cpu_makes_of_them(filter, side, size):
    """The function that serves GPUs runs here on a CPU; noise overshoots at every edge."""
    pixels = torch.randint(
        0, 256, (2, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    expected = torch.nn.functional.interpolate(pixels, size, mode=filter, antialias=True).float()
    difference = (resize_in_two_passes(pixels, size, filter) - expected).abs()
    assert difference.max() <= 2
    assert (difference > 0).float().mean() < 0.1  # exact halves, where float32 errs in its last bit
