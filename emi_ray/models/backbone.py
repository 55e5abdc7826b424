"""A pretrained transformer that is trained on, end to end: tokens or sound → embedding.

Its architecture is in the recipe (``backbone_config``, filled in when a run is planned), so that a trained
model is rebuilt without the pretrained weights. ``transformers`` is imported where it is used.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from emi_ray.errors import UserError
from emi_ray.models.encoders import FeatureReader, build_projection
from emi_ray.models.outputs import ParameterGroup
from emi_ray.models.sequences import PaddedGroup, Sequences, with_one_step
from emi_ray.pretrained.checkpoint import Checkpoint, first_sentence
from emi_ray.pretrained.loading import load_model, load_processor, quiet_transformers
from emi_ray.recipe_schema import EncoderSettings
from emi_ray.schema import Modality

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TOKEN_DIM = 1
"""Tokens reach the encoder as sequences (T, 1) of their ids."""

SPEECH_FAMILIES = ("wav2vec2", "wavlm", "hubert")
"""``model_type`` of the architectures that read sound."""

SAMPLE_RATE_HZ = 16_000

_LAYER = re.compile(r"(?:^|\.)layers?\.(\d+)\.")
ABOVE_LAYERS = 10_000


class Backbone(FeatureReader):
    """Input → transformer → class token or mean → MLP. A clip without input is a zero vector before the MLP.

    Layers nearer to the input learn at lower rates: layer i of n, and what lies above the last, at
    ``backbone_lr_ratio`` x ``layer_decay`` ^ (n - 1 - i), embeddings once more below. Weights are float32, whatever
    the checkpoint keeps: AdamW's epsilon is zero in float16.
    """

    modality: Modality

    def __init__(self, feature_dim: int, settings: EncoderSettings) -> None:
        from transformers import AutoConfig, AutoModel

        super().__init__(feature_dim, standardise=False)
        values = _resolved(settings)
        self.settings = settings
        config = AutoConfig.for_model(values.pop("model_type"), **values)
        self.backbone = AutoModel.from_config(config, dtype=torch.float32)
        if settings.gradient_checkpointing:
            self.backbone.config.use_cache = False
            self.backbone.activation_checkpointing_enable({"use_reentrant": False})
        width = int(self.backbone.config.hidden_size)
        self.projection = build_projection(width, settings)
        self.embedding_dim = width if settings.projection == "none" else settings.hidden

    def load_pretrained(self) -> None:
        """Start from the weights that the recipe names.

        Raises:
            UserError: they cannot be had, or lack some that the model uses.
        """
        from transformers import AutoModel

        with _naming(self.modality):
            folder = _checkpoint(self.settings).locate()
            pretrained = load_model(AutoModel, folder, "float32", torch.device("cpu"))
        self.backbone.load_state_dict(pretrained.state_dict())

    def parameter_groups(self) -> list[ParameterGroup]:
        """What follows the backbone, then its layers from the last to the embeddings."""
        by_depth: dict[int, list[nn.Parameter]] = {}
        top = int(self.backbone.config.num_hidden_layers) - 1
        for name, parameter in self.backbone.named_parameters():
            if parameter.requires_grad:
                by_depth.setdefault(min(self._depth(name), top), []).append(parameter)
        depths = sorted(by_depth, reverse=True)
        settings = self.settings
        ratios = [settings.backbone_lr_ratio * settings.layer_decay**place for place in range(len(depths))]
        own = [ParameterGroup(list(self.projection.parameters()))] if settings.projection != "none" else []
        return own + [ParameterGroup(by_depth[d], ratio) for d, ratio in zip(depths, ratios, strict=True)]

    def encode(self, sequences: Sequences) -> Tensor:
        """The input of a batch → (B, hidden), in the batch's order."""
        padding = sequences.pad()
        pooled = [self._pool(self.hidden(group)) for group in padding.groups]
        embedding: Tensor = self.projection(padding.in_batch_order(pooled))
        return embedding

    def hidden(self, group: PaddedGroup) -> PaddedGroup:
        """The last hidden states of some clips, float32, with the steps that are real."""
        raise NotImplementedError

    def _pool(self, hidden: PaddedGroup) -> Tensor:
        if self.settings.backbone_pooling == "cls":
            return hidden.values[:, 0] * hidden.mask.any(dim=1, keepdim=True)
        share = hidden.mask / hidden.mask.sum(dim=1, keepdim=True).clamp(min=1)
        return (hidden.values * share[:, :, None]).sum(dim=1)

    def _depth(self, parameter: str) -> int:
        """Number of the layer; -1 below the first layer, ``ABOVE_LAYERS`` above the last."""
        layer = _LAYER.search(parameter)
        return int(layer[1]) if layer else (-1 if "embeddings" in parameter else ABOVE_LAYERS)


class TextBackbone(Backbone):
    """Token ids (T, 1) → transformer."""

    modality = "text"

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__(TOKEN_DIM, settings)

    def hidden(self, group: PaddedGroup) -> PaddedGroup:
        mask = with_one_step(group.mask)
        tokens = torch.where(group.mask, group.values.squeeze(2), 0.0).long()
        output = self.backbone(input_ids=tokens, attention_mask=mask.long())
        return PaddedGroup(output.last_hidden_state.float(), group.mask)


def is_speech(settings: EncoderSettings) -> bool:
    """Whether the backbone of resolved settings reads sound."""
    return _resolved(settings)["model_type"] in SPEECH_FAMILIES


def _resolved(settings: EncoderSettings) -> dict[str, Any]:
    if settings.backbone_config is None:
        raise ValueError("the backbone's configuration is not known yet: see resolve_backbone")
    return dict(settings.backbone_config)


def resolve_backbone(settings: EncoderSettings, modality: Modality) -> EncoderSettings:
    """The settings with the exact revision of the weights, of a folder with its whole path, and the architecture.

    Of a speech model also ``do_normalize`` of its processor. Its ``layerdrop`` is off: a layer that one worker
    drops and another does not has no gradient of the whole batch.

    Raises:
        UserError: the weights cannot be had, or do not read this modality.
    """
    from transformers import AutoConfig, AutoFeatureExtractor

    with _naming(modality):
        checkpoint = _checkpoint(settings).pinned()
        config = _load(AutoConfig, checkpoint)
    kept = {
        k: v
        for k, v in config.to_diff_dict().items()
        if k not in ("architectures", "transformers_version", "dtype")
    }
    values = {**kept, "model_type": config.model_type}
    if (config.model_type in SPEECH_FAMILIES) != (modality == "audio"):
        wanted = f"one of {', '.join(SPEECH_FAMILIES)}" if modality == "audio" else "a text encoder"
        raise UserError(
            f"encoders.{modality}.backbone = '{settings.backbone}' is of type '{config.model_type}': {modality} "
            f"takes {wanted}."
        )
    if modality == "audio":
        with _naming(modality):
            processor = _load(AutoFeatureExtractor, checkpoint)
        if processor.sampling_rate != SAMPLE_RATE_HZ or values.get("add_adapter"):
            raise UserError(
                f"encoders.audio.backbone = '{settings.backbone}' takes {processor.sampling_rate} samples a second"
                f"{', with an adapter' if values.get('add_adapter') else ''}: give one of {SAMPLE_RATE_HZ}, without."
            )
        values |= {"do_normalize": bool(processor.do_normalize), "layerdrop": 0.0}
    exact = {"backbone": checkpoint.weights, "backbone_revision": checkpoint.revision}
    return settings.model_copy(update={**exact, "backbone_config": values})


def load_tokenizer(settings: EncoderSettings) -> "PreTrainedTokenizerFast":
    """The tokenizer beside a text backbone.

    Raises:
        UserError: it cannot be had.
    """
    from transformers import AutoTokenizer

    with _naming("text"):
        tokenizer: PreTrainedTokenizerFast = load_processor(AutoTokenizer, _checkpoint(settings).locate())
    return tokenizer


def _checkpoint(settings: EncoderSettings) -> Checkpoint:
    return Checkpoint(str(settings.backbone), settings.backbone_revision)


def _load(kind: Any, checkpoint: Checkpoint) -> Any:
    """A configuration or processor, without having the weights here: planning needs no more.

    Raises:
        UserError: there is none of that kind.
    """
    revision = {} if checkpoint.is_folder else {"revision": checkpoint.revision}
    try:
        with quiet_transformers():
            return kind.from_pretrained(checkpoint.weights, trust_remote_code=False, **revision)
    except (OSError, ValueError, KeyError, ImportError) as error:
        what = kind.__name__.removeprefix("Auto")
        raise UserError(f"'{checkpoint.weights}' has no usable {what}: {first_sentence(error)}") from None


@contextmanager
def _naming(modality: Modality) -> Iterator[None]:
    """Say in errors which setting they are about."""
    try:
        yield
    except UserError as error:
        raise UserError(f"encoders.{modality}.backbone: {error}") from None
