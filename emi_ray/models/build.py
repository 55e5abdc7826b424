"""Building models from recipes."""

from collections.abc import Mapping

from emi_ray.models.backbone import TextBackbone, is_speech
from emi_ray.models.cross_attention import TextAnchoredRegressor
from emi_ray.models.custom import CustomEncoder
from emi_ray.models.encoders import FeatureReader, SequenceEncoder
from emi_ray.models.fusion import FusionRegressor, UnimodalRegressor
from emi_ray.models.late_fusion import LateFusionRegressor
from emi_ray.models.outputs import Targets
from emi_ray.models.speech_backbone import SpeechBackbone
from emi_ray.recipe.schema import Recipe
from emi_ray.recipe.sections import EncoderSettings
from emi_ray.schema import EncoderName

TrainableModel = UnimodalRegressor | FusionRegressor | TextAnchoredRegressor | LateFusionRegressor
"""Any model that a recipe can define."""


def build_encoder(feature_dim: int, settings: EncoderSettings) -> FeatureReader:
    """Build an untrained encoder.

    Args:
        feature_dim: dimensions D of each step of its features.
        settings: the encoder's section of the recipe; ``backbone_config`` must be resolved for ``finetune``.
    """
    if settings.is_custom:
        return CustomEncoder(feature_dim, settings)
    if settings.type != "finetune":
        return SequenceEncoder(feature_dim, settings)
    return SpeechBackbone(feature_dim, settings) if is_speech(settings) else TextBackbone(settings)


def build_unimodal(
    recipe: Recipe, modality: EncoderName, feature_dim: int, num_labels: int
) -> UnimodalRegressor:
    """Build the untrained stage-1 model of one encoder: the encoder and a head of its own."""
    settings = recipe.encoders[modality]
    targets = Targets.of(num_labels, recipe.objective)
    return UnimodalRegressor(modality, build_encoder(feature_dim, settings), targets, settings.dropout)


def build_model(recipe: Recipe, feature_dims: Mapping[EncoderName, int], num_labels: int) -> TrainableModel:
    """Build the untrained model of a recipe.

    Args:
        recipe: the recipe, with resolved backbones.
        feature_dims: dimensions of each step of the features, by encoder.
        num_labels: number of labels to predict.
    """
    if recipe.fusion is None:
        (modality,) = recipe.streams
        return build_unimodal(recipe, modality, feature_dims[modality], num_labels)
    targets = Targets.of(num_labels, recipe.objective)
    if recipe.fusion.type == "late":
        members = {
            m: [build_unimodal(recipe, m, feature_dims[m], num_labels) for _ in range(recipe.fusion.folds)]
            for m in recipe.streams
        }
        return LateFusionRegressor(members, num_labels)
    if recipe.fusion.type == "text_anchored":
        (anchor,) = recipe.of_modality("text")
        text = build_encoder(feature_dims[anchor], recipe.encoders[anchor])
        speech: dict[EncoderName, SpeechBackbone] = {
            m: SpeechBackbone(feature_dims[m], recipe.encoders[m].model_copy(update={"projection": "none"}))
            for m in recipe.streams
            if m in recipe.finetuned - {anchor}
        }
        settings = {m: recipe.encoders[m] for m in recipe.streams}
        return TextAnchoredRegressor(
            anchor, text, speech, feature_dims, settings, recipe.fusion, targets, recipe.modality_of
        )
    encoders = {m: build_encoder(feature_dims[m], recipe.encoders[m]) for m in recipe.streams}
    frozen = recipe.stages == "frozen"
    own = {m: recipe.encoders[m].fusion_lr_ratio for m in recipe.streams}
    ratios = {m: ratio for m, ratio in own.items() if ratio is not None}
    return FusionRegressor(encoders, targets, recipe.fusion, frozen, recipe.modality_of, ratios)
