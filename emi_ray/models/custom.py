"""Encoders and losses of a user's own, which recipes name as ``module:object``."""

from typing import Any

import torch
from torch import Tensor, nn

from emi_ray.custom_code import code_digest, import_custom, require_same
from emi_ray.errors import UserError
from emi_ray.losses import custom_loss
from emi_ray.models.encoders import FeatureReader
from emi_ray.models.sequences import Sequences, with_one_step
from emi_ray.recipe.schema import Recipe
from emi_ray.recipe.sections import EncoderSettings


class CustomEncoder(FeatureReader):
    """An encoder around a ``torch.nn.Module`` that a user wrote.

    The class is called as ``Class(feature_dim, **settings)`` and has an attribute ``embedding_dim``. Its ``forward``
    gets ``values`` (b, T, D) and ``mask`` (b, T), True for a real step, and returns (b, embedding_dim). This class
    standardises, applies ``max_steps``, and gives clips that lack the modality a zero embedding.
    """

    def __init__(self, feature_dim: int, settings: EncoderSettings) -> None:
        super().__init__(feature_dim, settings.standardise)
        self._name, self._max_steps = settings.type, settings.max_steps
        kind = _encoder_class(settings)
        try:
            self.custom: nn.Module = kind(feature_dim, **settings.settings)
            self.embedding_dim = int(self.custom.embedding_dim)  # type: ignore[arg-type]
        except (AttributeError, TypeError, ValueError) as error:
            raise UserError(
                f"type = '{self._name}' cannot be built as {kind.__name__}({feature_dim}, **{settings.settings}) "
                f"with an attribute embedding_dim: {type(error).__name__}: {error}."
            ) from error

    def encode(self, sequences: Sequences) -> Tensor:
        padding = sequences.pad()
        return padding.in_batch_order([self._forward(group.values, group.mask) for group in padding.groups])

    def _forward(self, values: Tensor, mask: Tensor) -> Tensor:
        values, mask = values[:, : self._max_steps], mask[:, : self._max_steps]
        if self.standardise:
            # Padding is zero again after standardisation, because a user's module may ignore the mask.
            values = (values - self.feature_mean) * self.feature_scale * mask[..., None]
        # A clip without steps is given one of zeros, because attention over no step would be NaN.
        embedding: Any = self.custom(values, with_one_step(mask))
        wanted = (len(values), self.embedding_dim)
        if not isinstance(embedding, Tensor) or tuple(embedding.shape) != wanted:
            got = tuple(embedding.shape) if isinstance(embedding, Tensor) else type(embedding).__name__
            raise UserError(f"type = '{self._name}': forward returned {got}, not a tensor of shape {wanted}.")
        # where and not a product: a user's module may return NaN for a clip without steps.
        return torch.where(mask.any(dim=1, keepdim=True), embedding, 0.0)


def _encoder_class(settings: EncoderSettings) -> type[nn.Module]:
    found = import_custom(settings.type, "type")
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise UserError(f"type = '{settings.type}' is not a subclass of torch.nn.Module.")
    # Checked wherever the class is used, so that a worker with other code refuses to train.
    require_same(settings.type, settings.code, found, "type")
    return found


def resolve_custom(recipe: Recipe) -> Recipe:
    """Add a hash of the source of each encoder and loss of the user's own to a recipe.

    Raises:
        UserError: one of them cannot be imported, is of the wrong kind, or differs from the hash that is given.
    """
    encoders = dict(recipe.encoders)
    for name, settings in recipe.encoders.items():
        if settings.is_custom:
            try:
                code = code_digest(settings.type, _encoder_class(settings))
            except UserError as error:
                raise UserError(f"encoders.{name}.{error}") from None
            encoders[name] = settings.model_copy(update={"code": code})
    objective = recipe.objective
    if objective.loss is not None:
        # custom_loss has refused code that differs from a hash which the recipe gives.
        code = code_digest(objective.loss, custom_loss(objective))
        objective = objective.model_copy(update={"loss_code": code})
    return recipe.model_copy(update={"encoders": encoders, "objective": objective})


def with_code_of(recipe: Recipe, original: Recipe) -> Recipe:
    """Return a variant of a recipe with the hashes of the original, so that changed code is refused."""
    encoders = {
        name: settings.model_copy(update={"code": original.encoders[name].code})
        if name in original.encoders and settings.type == original.encoders[name].type
        else settings
        for name, settings in recipe.encoders.items()
    }
    objective = recipe.objective
    if objective.loss is not None and objective.loss == original.objective.loss:
        objective = objective.model_copy(update={"loss_code": original.objective.loss_code})
    return recipe.model_copy(update={"encoders": encoders, "objective": objective})


def changed_code(recipe: Recipe) -> list[str]:
    """Return for each encoder of a trained recipe, and for its loss, why it is not what the recipe was trained with.

    The list is empty if everything is the same, or the recipe has no code of the user's own.
    """
    changed = _changed_encoders(recipe)
    if recipe.objective.loss is not None:
        try:
            custom_loss(recipe.objective)
        except UserError as error:
            changed.append(str(error))
    return changed


def _changed_encoders(recipe: Recipe) -> list[str]:
    changed = []
    for name, settings in recipe.encoders.items():
        if settings.is_custom:
            try:
                _encoder_class(settings)
            except UserError as error:
                changed.append(f"encoders.{name}.{error}")
    return changed


def require_unchanged_code(recipe: Recipe, model: str) -> None:
    """Refuse to load a model whose own encoders are missing here or have changed. Its loss is not needed.

    Args:
        recipe: the recipe that the model was trained with.
        model: the model's location, for the message.

    Raises:
        UserError: names each encoder concerned, and why.
    """
    if changed := _changed_encoders(recipe):
        raise UserError(f"{model} cannot be loaded: {' '.join(changed)}")
