"""Fine-tuning of a pretrained transformer, end to end, from tokens or a waveform to an embedding.

The recipe contains the architecture (``backbone_config``, filled in when a run is planned), so a trained model can be
loaded without the pretrained weights. ``transformers`` is imported only where it is used, because it is slow to
import.
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
from emi_ray.pretrained_weights.checkpoint import Checkpoint, first_sentence
from emi_ray.pretrained_weights.loading import load_model, load_processor, quiet_transformers
from emi_ray.pretrained_weights.positions import fit_to_positions
from emi_ray.recipe.sections import EncoderSettings
from emi_ray.schema import Modality

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TOKEN_DIM = 1
"""Feature dimension of tokens: a text backbone reads sequences (T, 1) of token ids."""

DEFAULT_TOKENS = 128
"""Maximum number of tokens of a text that are read if the recipe has no ``max_steps``."""

SPEECH_FAMILIES = ("wav2vec2", "wavlm", "hubert")
"""``model_type`` of the supported speech architectures."""

SAMPLE_RATE_HZ = 16_000

# Matches "encoder.layer.3." of BERT and "encoder.layers.3." of wav2vec 2.0.
_LAYER = re.compile(r"(?:^|\.)layers?\.(\d+)\.")
ABOVE_LAYERS = 10_000


class Backbone(FeatureReader):
    """Base class: input → transformer → class token or mean → MLP.

    A clip without input is a zero vector before the MLP. Layers closer to the input have lower learning rates:
    layer i of n has the ratio ``backbone_lr_ratio`` x ``layer_decay`` ^ (n - 1 - i), embeddings have one factor
    more, and parts above the last layer have the ratio of the last layer. Weights are float32 even if the
    checkpoint is not, because AdamW's epsilon would underflow to zero in float16.
    """

    modality: Modality

    def __init__(self, feature_dim: int, settings: EncoderSettings) -> None:
        super().__init__(feature_dim, standardise=False)
        self.settings = settings
        # load_pretrained or a state dict replaces the random weights.
        self.backbone = _from_configuration(settings)
        if settings.gradient_checkpointing:
            self.backbone.config.use_cache = False
            self.backbone.activation_checkpointing_enable({"use_reentrant": False})
        width = int(self.backbone.config.hidden_size)
        self.projection = build_projection(width, settings)
        self.embedding_dim = width if settings.projection == "none" else settings.hidden

    def load_pretrained(self) -> None:
        """Load the pretrained weights that the recipe names.

        Raises:
            UserError: the weights are not available, or some that the model needs are missing.
        """
        from transformers import AutoModel

        with _naming(self.modality):
            folder = _checkpoint(self.settings).locate()
            pretrained = load_model(AutoModel, folder, "float32", torch.device("cpu"))
        self.backbone.load_state_dict(pretrained.state_dict())

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return the projection, then the layers of the backbone from the last one to the embeddings."""
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
        """Encode the input of a batch; returns (B, hidden) in the order of the batch."""
        padding = sequences.pad()
        pooled = [self._pool(self.hidden(group)) for group in padding.groups]
        embedding: Tensor = self.projection(padding.in_batch_order(pooled))
        return embedding

    def hidden(self, group: PaddedGroup) -> PaddedGroup:
        """Compute the last hidden states of some clips, (b, T, width) float32, with a mask of the real steps."""
        raise NotImplementedError

    def _pool(self, hidden: PaddedGroup) -> Tensor:
        # The product is zero for a clip without input, whose only unmasked step is artificial.
        if self.settings.backbone_pooling == "cls":
            return hidden.values[:, 0] * hidden.mask.any(dim=1, keepdim=True)
        # (b, T); clamp avoids 0 / 0 for a clip without input, whose mean is zero.
        share = hidden.mask / hidden.mask.sum(dim=1, keepdim=True).clamp(min=1)
        return (hidden.values * share[:, :, None]).sum(dim=1)

    def _depth(self, parameter: str) -> int:
        """Return the layer of a parameter: -1 below the first layer, ``ABOVE_LAYERS`` above the last one."""
        layer = _LAYER.search(parameter)
        return int(layer[1]) if layer else (-1 if "embeddings" in parameter else ABOVE_LAYERS)


class TextBackbone(Backbone):
    """A text transformer that reads token ids (T, 1)."""

    modality = "text"

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__(TOKEN_DIM, settings)

    def hidden(self, group: PaddedGroup) -> PaddedGroup:
        # Clips without a transcript get one token with id 0; the returned mask hides its state.
        mask = with_one_step(group.mask)
        tokens = torch.where(group.mask, group.values.squeeze(2), 0.0).long()
        output = self.backbone(input_ids=tokens, attention_mask=mask.long())
        return PaddedGroup(output.last_hidden_state.float(), group.mask)


def most_tokens(settings: EncoderSettings) -> int:
    """Return how many tokens of a text a backbone of resolved settings reads: ``max_steps``, or all positions of the
    model if those are fewer.
    """
    with torch.device("meta"):  # the sizes are all that is wanted, and weights would need memory and time
        backbone = _from_configuration(settings)
    return fit_to_positions(backbone, settings.max_steps or DEFAULT_TOKENS)


def _from_configuration(settings: EncoderSettings) -> Any:
    """Build the transformer of resolved settings with random float32 weights."""
    from transformers import AutoConfig, AutoModel

    values = _resolved(settings)
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    return AutoModel.from_config(config, dtype=torch.float32)


def is_speech(settings: EncoderSettings) -> bool:
    """Return whether the backbone of resolved settings is a speech model."""
    return _resolved(settings)["model_type"] in SPEECH_FAMILIES


def _resolved(settings: EncoderSettings) -> dict[str, Any]:
    if settings.backbone_config is None:
        raise ValueError("the backbone's configuration is not resolved yet: call resolve_backbone first")
    return dict(settings.backbone_config)


def resolve_backbone(settings: EncoderSettings, modality: Modality) -> EncoderSettings:
    """Return the settings with the exact revision of the weights (or the absolute path) and the architecture.

    For a speech model, ``do_normalize`` of its processor is added, and ``layerdrop`` is switched off: workers draw
    LayerDrop independently, so a layer could lack the gradient of a part of the batch.

    Raises:
        UserError: the weights are not available, or the model does not read this modality.
    """
    from transformers import AutoConfig, AutoFeatureExtractor

    with _naming(modality):
        checkpoint = _checkpoint(settings).pinned()
        config = _load(AutoConfig, checkpoint)
    kept = {
        # These fields differ between versions of transformers or do not change the architecture.
        k: v
        for k, v in config.to_diff_dict().items()
        if k not in ("architectures", "transformers_version", "dtype")
    }
    values = {**kept, "model_type": config.model_type}
    if (config.model_type in SPEECH_FAMILIES) != (modality == "audio"):
        wanted = f"one of {', '.join(SPEECH_FAMILIES)}" if modality == "audio" else "a text encoder"
        raise UserError(
            f"encoders.{modality}.backbone = '{settings.backbone}' is of type '{config.model_type}', but {modality} "
            f"needs {wanted}."
        )
    if modality == "audio":
        with _naming(modality):
            processor = _load(AutoFeatureExtractor, checkpoint)
        # An adapter would follow the encoder, but SpeechBackbone does not apply one.
        if processor.sampling_rate != SAMPLE_RATE_HZ or values.get("add_adapter"):
            raise UserError(
                f"encoders.audio.backbone = '{settings.backbone}' has a sample rate of {processor.sampling_rate} Hz"
                f"{' and an adapter' if values.get('add_adapter') else ''}: choose a model of {SAMPLE_RATE_HZ} Hz "
                "without an adapter."
            )
        values |= {"do_normalize": bool(processor.do_normalize), "layerdrop": 0.0}
    exact = {"backbone": checkpoint.weights, "backbone_revision": checkpoint.revision}
    return settings.model_copy(update={**exact, "backbone_config": values})


def load_tokenizer(settings: EncoderSettings) -> "PreTrainedTokenizerFast":
    """Load the tokenizer of a text backbone.

    Raises:
        UserError: it is not available.
    """
    from transformers import AutoTokenizer

    with _naming("text"):
        tokenizer: PreTrainedTokenizerFast = load_processor(AutoTokenizer, _checkpoint(settings).locate())
    return tokenizer


def _checkpoint(settings: EncoderSettings) -> Checkpoint:
    return Checkpoint(str(settings.backbone), settings.backbone_revision)


def _load(kind: Any, checkpoint: Checkpoint) -> Any:
    """Load a configuration or processor without downloading the weights; planning a run needs no more.

    Raises:
        UserError: the checkpoint has no usable one.
    """
    # A folder or package has no revisions of the hub, and its content was checked by locate().
    is_local = checkpoint.is_folder or checkpoint.is_of_package
    source, revision = (checkpoint.locate(), None) if is_local else (checkpoint.weights, checkpoint.revision)
    try:
        with quiet_transformers():
            return kind.from_pretrained(source, trust_remote_code=False, revision=revision or "main")
    except (OSError, ValueError, KeyError, ImportError) as error:
        what = kind.__name__.removeprefix("Auto")
        raise UserError(f"'{checkpoint.weights}' has no usable {what}: {first_sentence(error)}") from None


@contextmanager
def _naming(modality: Modality) -> Iterator[None]:
    """Prefix user errors of the ``with`` block with the name of the setting."""
    try:
        yield
    except UserError as error:
        raise UserError(f"encoders.{modality}.backbone: {error}") from None
