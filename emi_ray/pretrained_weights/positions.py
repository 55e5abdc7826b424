"""How many tokens a text model of ``transformers`` can number."""

import re
from typing import Any

from torch import nn

# The models of transformers name a table of absolute positions so; "wpe" is that of GPT-2 and its successors.
_POSITIONS = re.compile(r"position|^wpe$")


def fit_to_positions(model: nn.Module, num_tokens: int) -> int:
    """Return ``num_tokens``, or the number of positions of the model if that is smaller.

    A token beyond the table of positions is an error, which on a GPU costs the process its CUDA context. A tokenizer
    that was saved without ``model_max_length`` does not prevent it. Models with relative or rotary positions have no
    such table, and no limit.

    Args:
        model: a model of ``transformers``; its weights may be on the device ``meta``.
    """
    tables = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and _POSITIONS.search(name.rpartition(".")[2])
    ]
    return min([num_tokens, *(_num_usable(table, model.config) for table in tables)])


def _num_usable(table: nn.Embedding, config: Any) -> int:
    """Return the number of tokens for which a table has positions."""
    # Models like RoBERTa give padding a position of its own, and the first token the one after it.
    first = 0 if table.padding_idx is None else table.padding_idx + 1
    # Models like BART leave rows at the start unused too, but do not count them in their configuration.
    return min(table.num_embeddings - first, getattr(config, "max_position_embeddings", table.num_embeddings))
