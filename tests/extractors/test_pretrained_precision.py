"""Features of a pretrained model keep the precision in which it computes, until the store has chosen its own."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import transformers as hf
from tiny_checkpoints import make_clip

from emi_ray.config import ExtractorSettings, MediaSettings
from emi_ray.extraction.extract_stage import _choose_precision
from emi_ray.extractors import Extractor, Features, specify

CHECKPOINTS = {"text": ("hf-text", "bert"), "vision": ("hf-vision", "vit"), "audio": ("hf-audio", "hubert")}


def build(modality: str, folder: Path, dtype: str) -> Extractor:
    settings = {"weights": str(folder), "dtype": dtype}
    name, _ = CHECKPOINTS[modality]
    return specify(modality, ExtractorSettings(name=name, settings=settings), MediaSettings()).build()


def edited(bert: Path, folder: Path, edit: Callable[[hf.BertModel], None]) -> Path:
    """Save a copy of the model with edited weights to a folder."""
    model = hf.BertModel.from_pretrained(bert)
    edit(model)
    model.save_pretrained(folder)
    hf.AutoTokenizer.from_pretrained(bert).save_pretrained(folder)
    return folder


def extract(modality: str, folder: Path, dtype: str) -> list[Features]:
    return build(modality, folder, dtype).extract([make_clip(seed) for seed in range(8)])


@pytest.mark.parametrize("modality", CHECKPOINTS)
def test_an_ordinary_model_in_float32_is_stored_in_float16(modality, request):
    folder = request.getfixturevalue(CHECKPOINTS[modality][1])
    values = [features.values for features in extract(modality, folder, "float32")]
    assert {array.dtype for array in values} == {np.dtype(np.float32)}
    assert _choose_precision(values) == ("float16", "")


@pytest.mark.parametrize("modality", CHECKPOINTS)
def test_an_ordinary_model_in_16_bits_gives_float16(modality, request):
    folder = request.getfixturevalue(CHECKPOINTS[modality][1])
    found = extract(modality, folder, "bfloat16")
    assert {features.values.dtype for features in found} == {np.dtype(np.float16)}
    assert {values.dtype for features in found for values in features.extras.values()} <= {
        np.dtype(np.float32)
    }


def test_a_narrow_dimension_far_from_zero_keeps_its_variation(bert, tmp_path):
    def narrow(model: hf.BertModel) -> None:
        norm = model.encoder.layer[-1].output.LayerNorm
        norm.weight.data[3], norm.bias.data[3] = 0.05, 400.0

    found = extract("text", edited(bert, tmp_path, narrow), "float32")
    values = [features.values for features in found]
    assert len({float(array[0, 3]) for array in values}) == len(values)
    precision, reason = _choose_precision(values)
    assert precision == "float32"
    assert reason.startswith("dimension 3 is ")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_features_beyond_the_range_of_float16_are_float32(bert, tmp_path, dtype):
    def enlarge(model: hf.BertModel) -> None:
        model.encoder.layer[-1].output.LayerNorm.weight.data *= 1e5

    found = extract("text", edited(bert, tmp_path, enlarge), dtype)
    values = np.concatenate([features.values for features in found])
    assert values.dtype == np.float32
    assert np.isfinite(values).all()
    assert np.abs(values).max() > 65_504
