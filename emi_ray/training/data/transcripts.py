"""Transcripts as tokens, which a fine-tuned text backbone reads instead of features."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from emi_ray.errors import UserError
from emi_ray.models.backbone import load_tokenizer, most_tokens, resolve_backbone
from emi_ray.recipe.schema import Recipe
from emi_ray.training.data.clip_data import ClipData, PackedFeatures

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TOKENIZER = "tokenizer.json"


def resolve_backbones(recipe: Recipe) -> Recipe:
    """Add the exact revision and the architecture of each backbone to a recipe.

    Raises:
        UserError: a backbone is not available, or does not read its modality.
    """
    encoders = dict(recipe.encoders)
    for name in recipe.finetuned:
        if None in (encoders[name].backbone_config, encoders[name].backbone_revision):
            encoders[name] = resolve_backbone(encoders[name], recipe.modality_of(name))
    return recipe.model_copy(update={"encoders": encoders})


def with_tokens(
    data: ClipData,
    recipe: Recipe,
    transcripts: Mapping[str, str],
    tokenizer: "PreTrainedTokenizerFast | None" = None,
) -> ClipData:
    """Add the tokens of transcripts to clips, for the text backbone of a recipe.

    Raises:
        UserError: no clip has a transcript, or the tokenizer is not available.
    """
    stream = recipe.transcript_stream
    assert stream is not None, "the recipe does not fine-tune a text backbone"
    settings = recipe.encoders[stream]
    tokenizer = tokenizer or load_tokenizer(settings)
    texts = [transcripts.get(str(clip_id)) for clip_id in data.clip_ids]
    tokens = tokenise(texts, tokenizer, most_tokens(settings), str(settings.backbone))
    return data.with_features({**data.features, stream: tokens})


def tokenise(
    texts: Sequence[str | None], tokenizer: "PreTrainedTokenizerFast", max_tokens: int, backbone: str
) -> PackedFeatures:
    """Tokenise texts; None means a clip without text. Token ids are packed as (sum of tokens, 1) int32.

    Raises:
        UserError: no clip has text.
    """
    given = [text for text in texts if text is not None]
    if not given:
        raise UserError(
            "No clip has a transcript to fine-tune a text backbone on: add transcripts to the corpus, or configure a "
            "speech recogniser (transcriber in emi_ray.yaml) and run emi-ray extract."
        )
    tokens = iter(tokenizer(given, truncation=True, max_length=max_tokens)["input_ids"])
    rows = [[] if text is None else next(tokens) for text in texts]
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    values = np.concatenate([np.array(row, dtype=np.int32) for row in rows])[:, None]
    digest = hashlib.blake2b(f"{backbone}\n{max_tokens}\n".encode() + values.tobytes(), digest_size=6)
    starts = np.cumsum(lengths) - lengths
    digests = np.array([_digest_of(row) for row in rows], dtype=str)
    return PackedFeatures(values, starts, lengths, lengths > 0, digest.hexdigest(), digests=digests)


def _digest_of(tokens: Sequence[int]) -> str:
    """Return a hash of a clip's tokens; empty for a clip without text."""
    return hashlib.blake2b(np.array(tokens, np.int32).tobytes(), digest_size=8).hexdigest() if tokens else ""


def dump_tokenizer(tokenizer: "PreTrainedTokenizerFast") -> str:
    """Serialise a tokenizer as text, to be stored in a run's folder."""
    return str(tokenizer.backend_tokenizer.to_str())


def parse_tokenizer(text: str) -> "PreTrainedTokenizerFast":
    """Load a tokenizer from the text of :func:`dump_tokenizer`."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(text))
