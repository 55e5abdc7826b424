"""Texts are cut to the positions that a model has."""

import pytest
import torch
import transformers as hf
from tiny_checkpoints import SMALL

from emi_ray.pretrained_weights.positions import fit_to_positions

COMMON = {"vocab_size": 50, "max_position_embeddings": 40}
TEXT = {**SMALL, **COMMON, "pad_token_id": 1}
SMALL_GPT = {"n_embd": 24, "n_layer": 1, "n_head": 2}
SMALL_BART = {"d_model": 16} | {
    f"{side}_{part}": 2
    for side in ("encoder", "decoder")
    for part in ("layers", "attention_heads", "ffn_dim")
}
WANTED = 100


def longest_that_runs(model: torch.nn.Module) -> int:
    """Return the largest number of tokens, up to ``WANTED``, that the model computes."""
    for length in range(WANTED, 0, -1):
        ids = torch.randint(5, 50, (1, length))
        try:
            model(input_ids=ids, attention_mask=torch.ones_like(ids))
        except (IndexError, RuntimeError, ValueError):
            continue
        return length
    raise AssertionError("the model computes nothing")


@pytest.mark.parametrize(
    ("family", "settings", "most"),
    [
        ("Bert", TEXT, 40),
        ("Electra", {**TEXT, "embedding_size": 24}, 40),
        ("Roberta", TEXT, 38),
        ("XLMRoberta", TEXT, 38),
        ("Camembert", {**TEXT, "pad_token_id": 4}, 35),
        ("MPNet", TEXT, 38),
        ("Nystromformer", {**TEXT, "segment_means_seq_len": 1, "num_landmarks": 1}, 40),
        ("OpenAIGPT", {**SMALL_GPT, "vocab_size": 50, "n_positions": 40}, 40),
        ("GPT2", {**SMALL_GPT, "vocab_size": 50, "n_positions": 40}, 40),
        ("Bart", {**COMMON, **SMALL_BART, "pad_token_id": 1}, 40),
        ("DebertaV2", {**TEXT, "position_biased_input": True}, 40),
        ("DebertaV2", {**TEXT, "position_biased_input": False, "relative_attention": True}, WANTED),
        ("Llama", {**TEXT, "num_key_value_heads": 2}, WANTED),
        ("ModernBert", TEXT, WANTED),
    ],
)
def test_the_limit_is_the_longest_text_that_a_model_computes(family, settings, most):
    torch.manual_seed(0)
    kind = getattr(hf, f"{family}Model")
    config = kind.config_class(**settings)
    model = kind(config).eval()
    with torch.inference_mode():
        assert longest_that_runs(model) == most
    assert fit_to_positions(model, WANTED) == most
    assert fit_to_positions(model, 12) == 12
    with torch.device("meta"):
        assert fit_to_positions(kind(config), WANTED) == most
