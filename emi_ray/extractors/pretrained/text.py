"""Text encoders from ``transformers``: one vector per transcript, or one per token."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from emi_ray.errors import ClipError
from emi_ray.extractors.base import Features
from emi_ray.extractors.pretrained.base import (
    LayerSettings,
    Pretrained,
    check_layer,
    select_layer,
)
from emi_ray.extractors.pretrained.device import features_to_host, to_device
from emi_ray.media.clip import DecodedClip
from emi_ray.pretrained_weights.loading import load_processor

if TYPE_CHECKING:
    import torch


class TextSettings(LayerSettings):
    """How token states become vectors."""

    pooling: Literal["cls", "mean"] = Field("mean", description="cls: first token; mean: over all tokens")
    normalize: bool = Field(False, description="scale every vector to unit length")
    sequence: bool = Field(False, description="one step per token, special tokens included")
    max_tokens: int = Field(512, ge=8, description="longer texts are truncated; the model may allow fewer")


class HfText(Pretrained):
    """Any text encoder that ``AutoModel`` loads.

    There is a remark on a text that is truncated to ``max_tokens``. A transcript has no timing, so all
    timestamps are 0.
    """

    NAME = "hf-text"
    MODALITY = "text"
    VERSION = 2
    NEEDS = frozenset({"transcript"})
    LICENCE = "that of the weights"
    Settings = TextSettings
    _BATCH_SIZE = (1_024, 32_768)
    _PASS_COST = (32, 4_096)

    def __init__(self, settings: TextSettings) -> None:
        super().__init__(settings)
        from transformers import AutoTokenizer

        from emi_ray.pretrained_weights.positions import fit_to_positions

        self._tokenizer = load_processor(AutoTokenizer, self._folder)
        # With padding on the left, the first token and all positions of a text would depend on the longest text.
        self._tokenizer.padding_side = "right"
        wanted = min(settings.max_tokens, self._tokenizer.model_max_length)
        self._max_tokens = fit_to_positions(self._model, wanted)
        check_layer(settings.layer, self._model.config.num_hidden_layers)

    def extract(self, clips: Sequence[DecodedClip]) -> list[Features]:
        """Compute features (1, D) of each clip, or (tokens, D) with ``sequence``, in the dtype of
        :func:`~emi_ray.extractors.pretrained.device.features_to_host`.

        Raises:
            ClipError: a transcript is empty.
        """
        import torch

        for clip in clips:
            if not (clip.transcript or "").strip():
                raise ClipError("text", "the transcript is empty")
        texts = [clip.transcript for clip in clips]
        tokens = self._tokenizer(texts, truncation=True, max_length=self._max_tokens)
        lengths = [len(ids) for ids in tokens["input_ids"]]
        steps: list[np.ndarray] = [np.empty(0)] * len(clips)
        batches = self._batches(lengths)
        with torch.inference_mode():
            states = [self._forward(tokens, batch) for batch in batches]
            arrays, _ = features_to_host(states, self._model.dtype)
        for batch, rows in zip(batches, arrays, strict=True):
            for index, row in zip(batch, rows, strict=True):
                steps[index] = row[: lengths[index]] if self.settings.sequence else row[None]
        cut = [bool(encoding.overflowing) for encoding in tokens.encodings]
        remark = f"the text has more than {self._max_tokens} tokens: the rest of it was left out"
        return [
            Features(values, np.zeros(len(values), np.float32), remarks=[remark] if lost else [])
            for values, lost in zip(steps, cut, strict=True)
        ]

    def _forward(self, tokens: Any, batch: Sequence[int]) -> "torch.Tensor":
        """Compute the float32 states of each text of a batch: (N, D), or (N, T, D) with ``sequence``."""
        chosen = {name: [rows[index] for index in batch] for name, rows in tokens.items()}
        padded = self._tokenizer.pad(chosen, return_tensors="np")
        inputs = dict(zip(padded, to_device(list(padded.values()), self._device), strict=True))
        output = self._model(**inputs, output_hidden_states=self.settings.layer != "last")
        hidden = select_layer(output, self.settings.layer).float()
        if not self.settings.sequence:
            hidden = self._pooled(hidden, inputs["attention_mask"].bool())
        if self.settings.normalize:
            hidden = hidden / hidden.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        return hidden

    def _pooled(self, hidden: "torch.Tensor", mask: "torch.Tensor") -> "torch.Tensor":
        if self.settings.pooling == "cls":
            return hidden[:, 0].contiguous()  # a view would keep the states of all tokens in memory
        weights = mask[..., None].float()
        return (hidden * weights).sum(1) / weights.sum(1)


class GteSettings(TextSettings):
    """Settings of GTE as its authors use it: mean over tokens, unit length."""

    weights: str = "thenlper/gte-base"
    normalize: bool = True


class GteBase(HfText):
    """GTE-base sentence embeddings."""

    NAME = "gte-base"
    LICENCE = "MIT"
    DIM = 768
    Settings = GteSettings


class GteTokenSettings(GteSettings):
    """Settings of GTE with one step per token."""

    sequence: bool = Field(True, description="one step per token, special tokens included")


class GteBaseTokens(GteBase):
    """GTE-base states of single tokens, for encoders that read a sequence."""

    NAME = "gte-base-tokens"
    Settings = GteTokenSettings


class BertSettings(TextSettings):
    """Settings of BERT with the class token."""

    weights: str = "google-bert/bert-large-uncased"
    pooling: Literal["cls", "mean"] = "cls"


class BertLarge(HfText):
    """BERT-large, uncased."""

    NAME = "bert-large"
    LICENCE = "Apache-2.0"
    DIM = 1024
    Settings = BertSettings


class MiniLmSettings(TextSettings):
    """Settings of MiniLM according to its model card: mean over tokens, unit length, at most 256 tokens."""

    weights: str = "sentence-transformers/all-MiniLM-L6-v2"
    normalize: bool = True
    max_tokens: int = Field(256, ge=8, description="longer texts are truncated; the model may allow fewer")


class MiniLm(HfText):
    """MiniLM-L6 sentence embeddings: 22 million parameters, the fastest model on a CPU."""

    NAME = "minilm"
    LICENCE = "Apache-2.0"
    DIM = 384
    Settings = MiniLmSettings
