"""A pretrained text transformer that is trained on, end to end: tokens → embedding.

Its architecture is in the recipe (``backbone_config``, filled in when a run is planned), so that a trained
model is rebuilt without the pretrained weights. ``transformers`` is imported where it is used.
"""

import re
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from emi_ray.errors import UserError
from emi_ray.models.encoders import FeatureReader, build_projection
from emi_ray.models.outputs import ParameterGroup
from emi_ray.models.sequences import PaddedGroup, Sequences
from emi_ray.recipe_schema import EncoderSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TOKEN_DIM = 1
"""Tokens reach the encoder as sequences (T, 1) of their ids."""

_LAYER = re.compile(r"(?:^|\.)layers?\.(\d+)\.")


class BackboneEncoder(FeatureReader):
    """Token ids → transformer → class token or mean → MLP. A clip without text is a zero vector before the MLP.

    Layers nearer to the input learn at lower rates: layer i of n at ``backbone_lr_ratio`` x
    ``layer_decay`` ^ (n - 1 - i), embeddings once more below.
    """

    def __init__(self, settings: EncoderSettings) -> None:
        from transformers import AutoConfig, AutoModel

        super().__init__(TOKEN_DIM, standardise=False)
        if settings.backbone_config is None:
            raise ValueError("the backbone's configuration is not known yet: see resolve_backbones")
        values = dict(settings.backbone_config)
        self.settings = settings
        self.backbone = AutoModel.from_config(AutoConfig.for_model(values.pop("model_type"), **values))
        if settings.gradient_checkpointing:
            self.backbone.config.use_cache = False
            self.backbone.gradient_checkpointing_enable({"use_reentrant": False})
        width = int(self.backbone.config.hidden_size)
        self.projection = build_projection(width, settings)
        self.embedding_dim = width if settings.projection == "none" else settings.hidden

    def load_pretrained(self) -> None:
        """Start from the weights that the recipe names.

        Raises:
            UserError: they cannot be had.
        """
        from transformers import AutoModel

        pretrained = _from_pretrained(AutoModel, self.settings.backbone)
        self.backbone.load_state_dict(pretrained.state_dict())

    def parameter_groups(self) -> list[ParameterGroup]:
        """What follows the backbone, then its layers from the last to the embeddings."""
        by_depth: dict[int, list[nn.Parameter]] = {}
        for name, parameter in self.backbone.named_parameters():
            layer = _LAYER.search(name)
            depth = int(layer[1]) if layer else (-1 if "embeddings" in name else 10_000)
            by_depth.setdefault(depth, []).append(parameter)
        depths = sorted(by_depth, reverse=True)
        settings = self.settings
        ratios = [settings.backbone_lr_ratio * settings.layer_decay**place for place in range(len(depths))]
        own = [ParameterGroup(list(self.projection.parameters()))] if settings.projection != "none" else []
        return own + [ParameterGroup(by_depth[d], ratio) for d, ratio in zip(depths, ratios, strict=True)]

    def encode(self, sequences: Sequences) -> Tensor:
        """Tokens of a batch → (B, hidden), in the batch's order."""
        padding = sequences.pad()
        pooled = torch.cat([self._read(group) for group in padding.groups])
        if padding.order is not None:
            pooled = pooled[padding.order]
        embedding: Tensor = self.projection(pooled)
        return embedding

    def _read(self, group: PaddedGroup) -> Tensor:
        there = group.mask.any(dim=1, keepdim=True)
        mask = group.mask | (~there & (torch.arange(group.mask.shape[1], device=there.device) == 0))
        tokens = torch.where(group.mask, group.values.squeeze(2), 0.0).long()
        hidden = self.backbone(input_ids=tokens, attention_mask=mask.long()).last_hidden_state.float()
        if self.settings.backbone_pooling == "cls":
            return hidden[:, 0] * there
        share = group.mask / group.mask.sum(dim=1, keepdim=True).clamp(min=1)
        return (hidden * share[:, :, None]).sum(dim=1)


def backbone_config(backbone: str) -> dict[str, Any]:
    """The architecture of a Hugging Face id or local folder, as plain values.

    Raises:
        UserError: it cannot be had.
    """
    from transformers import AutoConfig

    config = _from_pretrained(AutoConfig, backbone)
    kept = {
        k: v for k, v in config.to_diff_dict().items() if k not in ("architectures", "transformers_version")
    }
    return {**kept, "model_type": config.model_type}


def load_tokenizer(backbone: str) -> "PreTrainedTokenizerFast":
    """The tokenizer of a Hugging Face id or local folder.

    Raises:
        UserError: it cannot be had.
    """
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerFast = _from_pretrained(AutoTokenizer, backbone)
    return tokenizer


def _from_pretrained(kind: Any, backbone: str | None) -> Any:
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        return kind.from_pretrained(backbone, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"encoders.text.backbone = '{backbone}' cannot be loaded: {reason} Give a Hugging Face id, or the "
            "folder of a text encoder with its tokenizer."
        ) from None
    finally:
        if bars:
            logging.enable_progress_bar()
