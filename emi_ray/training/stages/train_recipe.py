"""The training stages of a recipe: first each encoder with a head of its own, then the fusion of all encoders.

If a clip lacks a modality, the pooled vector of that encoder is zero in the fusion stage, as in the paper for
missing text. In the stage of the encoder itself, ``encoders.<modality>.missing`` decides whether the clip is left
out or has a zero vector.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from emi_ray.errors import EmiRayError, UserError
from emi_ray.models.backbone import Backbone
from emi_ray.models.build import TrainableModel, build_model, build_unimodal
from emi_ray.models.encoders import FeatureReader
from emi_ray.models.fusion import EmbeddingFusion, FusionRegressor, UnimodalRegressor
from emi_ray.recipe.schema import Recipe
from emi_ray.schema import EncoderName
from emi_ray.training.data.clip_data import ClipData
from emi_ray.training.data.split_rows import Rows, with_inner_part
from emi_ray.training.distributed import Team
from emi_ray.training.loop import seed_everything
from emi_ray.training.stages.embedding import embed_clips
from emi_ray.training.stages.encoder_key import encoder_key
from emi_ray.training.stages.runner import (
    FUSION,
    Hooks,
    StageResult,
    StageRunner,
    feature_statistics,
)


@dataclass(frozen=True)
class TrainedRecipe:
    """A trained recipe.

    Attributes:
        model: the whole model.
        results: result of each stage, by encoder and ``fusion``.
        reused: encoders that were found in the cache.
        rows: the clips that it was trained and validated on.
        encoder_keys: keys of the encoders in the cache.
    """

    model: TrainableModel
    results: dict[str, StageResult]
    reused: frozenset[str]
    rows: Rows
    encoder_keys: Mapping[str, str] = field(default_factory=dict)

    @property
    def history(self) -> list[dict[str, Any]]:
        return [entry for result in self.results.values() for entry in result.history]


def train_recipe(
    recipe: Recipe,
    data: ClipData,
    rows: Rows,
    *,
    seed: int,
    device: torch.device | None = None,
    hooks: Hooks | None = None,
) -> TrainedRecipe:
    """Train all stages of a recipe. Uses neither Ray nor files.

    Args:
        recipe: the recipe, with resolved backbones.
        data: all clips.
        rows: the labelled clips to train and validate on. A stage leaves out clips that lack its modality, unless
            ``missing`` is ``zero``.
        seed: random seed.
        device: device to train on; by default the CPU.
        hooks: optional hooks.

    Raises:
        UserError: a recurrent or ``mean_std`` encoder gets features with one step per clip, or a stage has no clips.
    """
    check_steps(recipe, data)
    late = recipe.fusion is not None and recipe.fusion.type == "late"
    if not late:
        rows = with_inner_part(data, rows, recipe.training)
    run = _Stages(recipe, data, rows, seed, device or torch.device("cpu"), hooks or Hooks())
    if late:
        from emi_ray.training.stages.late_fusion import train_late  # imports scipy's optimisers

        late_model, results = train_late(run)
        return TrainedRecipe(late_model.eval(), results, frozenset(), rows)
    encoders = {}
    if recipe.fusion is None or recipe.stages != "joint":
        encoders = {modality: run.train_encoder(modality) for modality in recipe.streams}
    if recipe.fusion is None:
        model: TrainableModel = encoders[recipe.streams[0]]
    else:
        model = run.train_fusion({modality: stage.encoder for modality, stage in encoders.items()})
    return TrainedRecipe(model.eval(), run.results, frozenset(run.reused), rows, run.encoder_keys)


def check_steps(recipe: Recipe, data: ClipData) -> None:
    """Check that encoders which need several steps per clip do not get features with a single step.

    Raises:
        UserError: an encoder does; the message names it.
    """
    for name, settings in recipe.encoders.items():
        needs = settings.recurrent or (settings.type if settings.type == "mean_std" else None)
        longest = int(data.features[name].lengths.max(initial=0))
        if needs and min(longest, settings.max_steps or longest) <= 1:
            field = "recurrent" if settings.recurrent else "type"
            by_token = "extract one step per token (extractors.text.name=gte-base-tokens), or "
            remedy = by_token if recipe.modality_of(name) == "text" else ""
            raise UserError(
                f"encoders.{name}.{field} = '{needs}' needs several steps per clip, but the features have one step "
                f"per clip: {remedy}set encoders.{name}.type=mlp and encoders.{name}.recurrent=null."
            )


class _Stages(StageRunner):
    """The stages of a recipe with encoders and their fusion."""

    def train_encoder(self, modality: EncoderName) -> UnimodalRegressor:
        """Train one encoder with a head of its own, or take it from the cache."""
        settings = self.recipe.encoders[modality]
        training = self.recipe.training_of(settings)
        rows = self.rows.with_any_of(self.data, [modality]) if settings.missing == "skip" else self.rows
        features = self.data.features[modality]
        seed_everything(self.seed, modality, "weights")
        model = build_unimodal(self.recipe, modality, features.feature_dim, len(self.data.labels))
        if isinstance(model.encoder, Backbone):
            model.encoder.load_pretrained()
        elif settings.standardise:
            model.encoder.set_statistics(*feature_statistics(features, rows.train))
        key = encoder_key(self.recipe, modality, self.data, rows, self.seed, self.device)
        self.encoder_keys[modality] = key
        cache, team = self.hooks.encoder_cache, Team.current()
        is_new = modality not in (self.hooks.resume or {}).get("finished", {})
        found = cache.load(modality, key) if cache is not None and is_new else None
        if cache is not None and is_new and team.agree(found is not None, self.device):
            if found is None:
                raise EmiRayError(
                    f"Encoder {key} of {modality}, which the first worker has read, cannot be read."
                )
            self.results[modality] = found
            self.reused.add(modality)
        else:
            self.train(modality, model, self.data, rows, training)
            if cache is not None and team.rank == 0:
                cache.save(modality, key, self.results[modality])
        model.load_state_dict(self.results[modality].weights)
        return model

    def train_fusion(self, encoders: Mapping[EncoderName, FeatureReader]) -> TrainableModel:
        """Train the fusion of trained encoders; without any (joint training), of new ones."""
        settings = self.recipe.fusion
        assert settings is not None
        dims = {modality: self.data.features[modality].feature_dim for modality in self.recipe.streams}
        rows = self.rows.with_any_of(self.data, self.recipe.streams)
        seed_everything(self.seed, FUSION, "weights")
        model = build_model(self.recipe, dims, len(self.data.labels))
        self._prepare_encoders(model, encoders)
        training = self.recipe.training_of(settings)
        if isinstance(model, FusionRegressor) and model.frozen:
            head = EmbeddingFusion(model.modalities, model.head)
            self.train(FUSION, head, embed_clips(model, self.data, self.device), rows, training)
        else:
            self.train(FUSION, model, self.data, rows, training)
        return model

    def _prepare_encoders(self, model: TrainableModel, trained: Mapping[EncoderName, FeatureReader]) -> None:
        for modality, encoder in model.readers().items():
            if modality in trained:
                encoder.load_state_dict(trained[modality].state_dict())
            elif isinstance(encoder, Backbone):
                encoder.load_pretrained()
            elif encoder.standardise:
                features = self.data.features[modality]
                encoder.set_statistics(*feature_statistics(features, self.rows.train))
