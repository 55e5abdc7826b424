"""Recipe → regressor."""

from collections.abc import Mapping

from emi_ray.models.encoders import SequenceEncoder
from emi_ray.models.fusion import FusionRegressor, UnimodalRegressor
from emi_ray.recipe import Recipe
from emi_ray.schema import Modality


def build_unimodal(
    recipe: Recipe, modality: Modality, feature_dim: int, num_labels: int
) -> UnimodalRegressor:
    """One encoder of the recipe under a head, untrained."""
    settings = recipe.encoders[modality]
    return UnimodalRegressor(modality, SequenceEncoder(feature_dim, settings), num_labels, settings.dropout)


def build_model(
    recipe: Recipe, feature_dims: Mapping[Modality, int], num_labels: int
) -> UnimodalRegressor | FusionRegressor:
    """The whole system, untrained."""
    if recipe.fusion is None:
        (modality,) = recipe.modalities
        return build_unimodal(recipe, modality, feature_dims[modality], num_labels)
    encoders = {m: SequenceEncoder(feature_dims[m], recipe.encoders[m]) for m in recipe.modalities}
    return FusionRegressor(encoders, num_labels, recipe.fusion, frozen=recipe.stages == "frozen")
