"""Checks for settings of a recipe that have no effect because of its other settings.

A setting that is silently ignored misleads the reader, so :func:`emi_ray.recipe.loading.load_recipe` refuses it. Only
values that differ from the default count, so a file may spell out every default, as the ``recipe.yaml`` of a run
does.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from emi_ray.recipe.schema import Recipe
from emi_ray.recipe.sections import (
    EncoderSettings,
    FusionSettings,
    ObjectiveSettings,
    StageOverrides,
    TrainingSettings,
)
from emi_ray.schema import EncoderName
from emi_ray.settings import Settings

_STAGE = tuple(StageOverrides.model_fields)
_BACKBONE = (
    "backbone_revision",
    "backbone_pooling",
    "backbone_lr_ratio",
    "layer_decay",
    "gradient_checkpointing",
    "backbone_config",
)
_RECURRENT = ("recurrent_hidden", "recurrent_layers", "bidirectional")
_LATE_READS = ("type", "folds")


class Unread(NamedTuple):
    """A setting without effect: its path (for example ``fusion.latents``), its value, and the reason."""

    path: str
    value: object
    why: str


def unread_settings(recipe: Recipe) -> list[Unread]:
    """Return the settings that differ from their default but have no effect in this recipe."""
    return [
        *(
            unread
            for name, encoder in recipe.encoders.items()
            for unread in _of_encoder(recipe, name, encoder)
        ),
        *(_of_fusion(recipe, recipe.fusion) if recipe.fusion else _without_fusion(recipe)),
        *_of_objective(recipe, recipe.objective),
        *_of_training(recipe.training, recipe.fusion is not None and recipe.fusion.type == "late"),
    ]


def _of_encoder(recipe: Recipe, name: EncoderName, encoder: EncoderSettings) -> Iterator[Unread]:
    where = f"encoders.{name}"
    anchored = recipe.fusion is not None and recipe.fusion.type == "text_anchored"
    if encoder.type != "finetune":
        yield from _changed(where, encoder, _BACKBONE, "only type 'finetune' uses it")
    else:
        of_features = ("extras", "features") if recipe.modality_of(name) == "text" else ("extras",)
        yield from _changed(where, encoder, of_features, "type 'finetune' reads the raw input, not features")
    after_pooling = ("hidden", "dropout", "projection")
    if encoder.is_custom:
        unpooled = ("hidden", "projection", *_RECURRENT)
        yield from _changed(where, encoder, unpooled, "an encoder of your own reads only its settings")
        if recipe.stages == "joint":
            yield from _changed(
                where, encoder, ("dropout",), "an encoder of your own reads only its settings"
            )
    if encoder.type == "steps":
        unpooled = (*after_pooling, "recurrent", "missing")
        yield from _changed(where, encoder, unpooled, "type 'steps' does not change the features")
    elif anchored and encoder.type == "finetune" and recipe.modality_of(name) != "text":
        names = ("hidden", "dropout", "projection")
        yield from _changed(
            where,
            encoder,
            names,
            "fusion.type 'text_anchored' reads the hidden states of the backbone directly",
        )
    elif encoder.projection == "none" and not encoder.is_custom:
        yield from _changed(
            where, encoder, ("hidden",), "projection 'none' does not change the size of the pooled vector"
        )
    if recipe.fusion is None or recipe.fusion.type != "concat" or recipe.stages == "frozen":
        why = "it is only used with fusion.type 'concat' when encoders keep learning in the fusion stage"
        yield from _changed(where, encoder, ("fusion_lr_ratio",), why)
    if encoder.recurrent is None and not encoder.is_custom:
        yield from _changed(
            where, encoder, _RECURRENT, "the encoder has no recurrent net: set recurrent to gru or lstm"
        )
    # Recurrent nets have dropout between their layers, so one layer has none.
    drops = encoder.projection == "mlp" or (encoder.recurrent is not None and encoder.recurrent_layers > 1)
    is_pooling = encoder.type not in ("steps", "finetune") and not encoder.is_custom
    if recipe.stages == "joint" and is_pooling and not drops:
        yield from _changed(where, encoder, ("dropout",), "the encoder has no layer with dropout")
    if recipe.stages == "joint" and recipe.fusion is not None:
        why = "with stages 'joint' an encoder has no training stage of its own"
        yield from _changed(where, encoder, (*_STAGE, "missing"), why)
    elif recipe.fusion is not None and recipe.fusion.type == "late":
        why = "with fusion.type 'late' each member is trained only on the clips that have its modality"
        yield from _changed(where, encoder, ("missing",), why)


def _of_fusion(recipe: Recipe, fusion: FusionSettings) -> Iterator[Unread]:
    if fusion.type == "late":
        # Derived from the fields, so that a new setting of the fusion is refused here by default.
        others = [name for name in FusionSettings.model_fields if name not in _LATE_READS]
        yield from _changed("fusion", fusion, others, "fusion.type 'late' uses only folds")
        return
    yield from _changed("fusion", fusion, ("folds",), "only fusion.type 'late' uses it")
    if fusion.type == "concat":
        yield from _changed("fusion", fusion, ("heads",), "only fusion.type 'text_anchored' uses it")
        for modality in fusion.latents.keys() - recipe.encoders.keys():
            yield Unread(f"fusion.latents.{modality}", fusion.latents[modality], "there is no such encoder")
    else:
        yield from _changed("fusion", fusion, ("latents",), "only fusion.type 'concat' uses it")
    ratio = ("encoder_lr_ratio",)
    if recipe.stages == "frozen" and fusion.encoder_lr_ratio:
        yield from _changed(
            "fusion", fusion, ratio, "with stages 'frozen' the encoders do not learn in the fusion stage"
        )
    if not any(_learns(encoder) for encoder in recipe.encoders.values()):
        yield from _changed("fusion", fusion, ratio, "no encoder has trainable weights")


def _learns(encoder: EncoderSettings) -> bool:
    """Return whether an encoder has trainable weights."""
    if encoder.type in ("steps", "finetune") or encoder.is_custom:
        return encoder.type != "steps"
    return encoder.type == "attention" or encoder.projection != "none" or encoder.recurrent is not None


def _without_fusion(recipe: Recipe) -> Iterator[Unread]:
    yield from _changed("", recipe, ("stages",), "a single encoder without fusion has one stage")


def _of_objective(recipe: Recipe, objective: ObjectiveSettings) -> Iterator[Unread]:
    fusion = recipe.fusion
    if objective.loss is None:
        yield from _changed("objective", objective, ("loss_weight", "loss_code"), "objective.loss is not set")
    if fusion is None or fusion.type == "late":
        yield from _changed("objective", objective, ("auxiliary",), "the system has no branches to supervise")
    # hurdle and zero_inflated act on the whole prediction only; the other losses also on branches.
    elif objective.loss is None and not any(
        (objective.ccc, objective.mse, objective.pearson, objective.l1, objective.huber, objective.binomial)
    ):
        yield from _changed(
            "objective", objective, ("auxiliary",), "objective.hurdle has no loss for branches"
        )
    if fusion is None or not fusion.latents:
        yield from _changed("objective", objective, ("latent_prior",), "fusion.latents names no modality")
    if not objective.huber:
        yield from _changed("objective", objective, ("huber_delta",), "objective.huber is 0")
    if not (objective.ccc or objective.pearson):
        yield from _changed("objective", objective, ("memory",), "objective.ccc and objective.pearson are 0")


def _of_training(training: TrainingSettings, late: bool) -> Iterator[Unread]:
    if late:
        names = ("stop_on", "inner_share")
        yield from _changed(
            "training", training, names, "fusion.type 'late' stops each member early on its own fold"
        )
    elif training.stop_on == "val":
        yield from _changed(
            "training", training, ("inner_share",), "training.stop_on 'val' holds out no part of train"
        )
    if training.scheduler != "plateau":
        plateau = ("plateau_factor", "plateau_patience")
        yield from _changed("training", training, plateau, "only training.scheduler 'plateau' uses it")
    if training.scheduler != "cosine":
        yield from _changed(
            "training", training, ("warmup_epochs",), "only training.scheduler 'cosine' uses it"
        )


def _changed(where: str, settings: Settings, names: Iterable[str], why: str) -> Iterator[Unread]:
    fields = type(settings).model_fields
    for name in names:
        value = getattr(settings, name)
        # Dictionaries and tuples have a factory instead of a default value.
        if value != fields[name].get_default(call_default_factory=True):
            yield Unread(".".join(filter(None, (where, name))), value, why)
