"""A recipe's stages: each encoder under a head of its own, then, without the heads, all of them in fusion.

A clip that lacks a modality reaches fusion with a zero vector before that encoder's MLP, as the paper does
for missing text. In the stage of its own modality it is left out, or likewise zero:
``encoders.<modality>.missing``.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from emi_ray.metrics import scores
from emi_ray.models.backbone import BackboneEncoder
from emi_ray.models.build import System, build_model, build_unimodal
from emi_ray.models.encoders import FeatureReader
from emi_ray.models.fusion import EmbeddingFusion, FusionRegressor, Regressor, UnimodalRegressor
from emi_ray.models.late_fusion import LateFusionRegressor
from emi_ray.recipe_schema import Recipe, TrainingSettings
from emi_ray.schema import Modality
from emi_ray.training.batching import Batcher
from emi_ray.training.clip_data import ClipData, PackedFeatures
from emi_ray.training.embedding import embed_clips, pool_once
from emi_ray.training.encoder_key import encoder_key
from emi_ray.training.late import Unseen, cut_folds, set_late_weights
from emi_ray.training.loop import FitState, OnEpochEnd, fit, predict, seed_everything
from emi_ray.training.rows import Rows
from emi_ray.training.team import Team

FUSION = "fusion"


@dataclass(frozen=True)
class StageOutcome:
    """What is left of a finished stage.

    Attributes:
        weights: of the best epoch, heads included.
        scores: of that epoch on the stage's validation clips.
        history: one entry an epoch.
        num_train, num_val: clips it learnt from and was validated on.
    """

    weights: dict[str, Tensor]
    scores: dict[str, Any]
    history: list[dict[str, Any]]
    best_epoch: int
    num_train: int
    num_val: int
    seconds: float


class EncoderCache(Protocol):
    """Keeps finished encoder stages by a hash of everything that determines them."""

    def has(self, modality: Modality, key: str) -> bool: ...

    def load(self, modality: Modality, key: str) -> StageOutcome: ...

    def save(self, modality: Modality, key: str, outcome: StageOutcome) -> None: ...


OnRunCheckpoint = Callable[[Callable[[], dict[str, Any]], bool], None]
"""Called after every epoch with a function that builds the state to resume the run from, and whether a stage
has just ended."""


@dataclass(frozen=True)
class Hooks:
    """What the caller of :func:`train_recipe` wants to hear of and to keep; all optional."""

    on_epoch_end: OnEpochEnd | None = None
    on_checkpoint: OnRunCheckpoint | None = None
    resume: Mapping[str, Any] | None = None
    encoder_cache: EncoderCache | None = None


@dataclass(frozen=True)
class TrainedRecipe:
    """The whole trained system, and how each stage went (by modality, and ``fusion``)."""

    model: System
    outcomes: dict[str, StageOutcome]
    reused: frozenset[str]

    @property
    def history(self) -> list[dict[str, Any]]:
        return [entry for outcome in self.outcomes.values() for entry in outcome.history]


def train_recipe(
    recipe: Recipe,
    data: ClipData,
    rows: Rows,
    *,
    seed: int,
    device: torch.device | None = None,
    hooks: Hooks | None = None,
) -> TrainedRecipe:
    """Train all stages of a recipe. Knows no Ray, no files.

    Args:
        rows: labelled clips; those without any modality that a stage needs are left out of it.
    """
    run = _Run(recipe, data, rows, seed, device or torch.device("cpu"), hooks or Hooks())
    if recipe.fusion is not None and recipe.fusion.type == "late":
        return TrainedRecipe(run.train_late().eval(), run.outcomes, frozenset())
    encoders = {}
    if recipe.fusion is None or recipe.stages != "joint":
        encoders = {modality: run.train_encoder(modality) for modality in recipe.modalities}
    if recipe.fusion is None:
        model: System = encoders[recipe.modalities[0]]
    else:
        model = run.train_fusion({modality: stage.encoder for modality, stage in encoders.items()})
    return TrainedRecipe(model.eval(), run.outcomes, frozenset(run.reused))


@dataclass
class _Run:
    recipe: Recipe
    data: ClipData
    rows: Rows
    seed: int
    device: torch.device
    hooks: Hooks
    outcomes: dict[str, StageOutcome] = field(default_factory=dict)
    reused: set[str] = field(default_factory=set)

    def train_encoder(self, modality: Modality) -> UnimodalRegressor:
        settings = self.recipe.encoders[modality]
        training = self.recipe.training_of(settings)
        rows = self.rows.having(self.data, [modality]) if settings.missing == "skip" else self.rows
        features = self.data.features[modality]
        seed_everything(self.seed, modality, "weights")
        model = build_unimodal(self.recipe, modality, features.feature_dim, len(self.data.labels))
        if isinstance(model.encoder, BackboneEncoder):
            model.encoder.load_pretrained()
        elif settings.standardise:
            model.encoder.set_statistics(*feature_statistics(features, rows.train))
        key = encoder_key(self.recipe, modality, self.data, rows, self.seed, self.device)
        cache, team = self.hooks.encoder_cache, Team.current()
        is_new = modality not in (self.hooks.resume or {}).get("finished", {})
        if cache is not None and is_new and team.agree(cache.has(modality, key), self.device):
            self.outcomes[modality] = cache.load(modality, key)
            self.reused.add(modality)
        else:
            self._train(modality, model, self.data, rows, training)
            if cache is not None and team.rank == 0:
                cache.save(modality, key, self.outcomes[modality])
        model.load_state_dict(self.outcomes[modality].weights)
        return model

    def train_fusion(self, encoders: Mapping[Modality, FeatureReader]) -> System:
        """Train the fusion over trained encoders; over new ones if none are given."""
        settings = self.recipe.fusion
        assert settings is not None
        dims = {modality: self.data.features[modality].feature_dim for modality in self.recipe.modalities}
        rows = self.rows.having(self.data, self.recipe.modalities)
        seed_everything(self.seed, FUSION, "weights")
        model = build_model(self.recipe, dims, len(self.data.labels))
        self._prepare_encoders(model, encoders)
        training = self.recipe.training_of(settings)
        if isinstance(model, FusionRegressor) and model.frozen:
            head = EmbeddingFusion(model.modalities, model.head)
            self._train(FUSION, head, embed_clips(model, self.data, self.device), rows, training)
        else:
            self._train(FUSION, model, self.data, rows, training)
        return model

    def train_late(self) -> LateFusionRegressor:
        """Train the members of every modality on folds, then weigh them by what they say of unseen clips."""
        assert self.recipe.fusion is not None
        dims = {m: self.data.features[m].feature_dim for m in self.recipe.modalities}
        seed_everything(self.seed, FUSION, "weights")
        model = build_model(self.recipe, dims, len(self.data.labels))
        assert isinstance(model, LateFusionRegressor)
        rows = self.rows.having(self.data, self.recipe.modalities)
        unseen = [self._train_members(model, modality) for modality in model.modalities]
        targets = self.data.unit_targets
        set_late_weights(model, [Unseen(part.values[rows.train]) for part in unseen], targets[rows.train])
        self._score_late(model, rows)
        return model

    def _train_members(self, model: LateFusionRegressor, modality: Modality) -> Unseen:
        """Each member on all folds but one; returns predictions of all clips, NaN where nobody may predict."""
        settings, members = self.recipe.encoders[modality], model.regressors(modality)
        rows = self.rows.having(self.data, [modality])
        values = np.full((len(self.data), len(self.data.labels)), np.nan)
        for index, fold in enumerate(cut_folds(rows, len(members), self.seed)):
            member = members[index]
            seed_everything(self.seed, modality, index, "weights")
            member.load_state_dict(
                build_unimodal(
                    self.recipe, modality, self.data.features[modality].feature_dim, len(self.data.labels)
                ).state_dict()
            )
            if settings.standardise:
                member.encoder.set_statistics(*feature_statistics(self.data.features[modality], fold.train))
            self._train(f"{modality}.{index}", member, self.data, fold, self.recipe.training_of(settings))
            values[fold.val] = predict(member, Batcher(self.data, [modality], self.device), fold.val)
        return Unseen(values)

    def _score_late(self, model: LateFusionRegressor, rows: Rows) -> None:
        """Replace the outcomes of single members by those of modalities, and add that of their fusion."""
        model.to(self.device)
        members, self.outcomes = self.outcomes, {}
        weight, bias = model.weight.clone(), model.bias.clone()
        for index, modality in enumerate(model.modalities):
            alone = torch.zeros_like(weight)
            alone[index] = 1.0
            model.set_weights(alone, model.centre.clone(), model.centre[index].clone())
            own = [members[f"{modality}.{k}"] for k in range(len(model.regressors(modality)))]
            history = [{**entry, "stage": modality} for entry in own[0].history]
            having = self.rows.having(self.data, [modality])
            seconds = sum(outcome.seconds for outcome in own)
            scored = self._validate(model, having.val)
            self.outcomes[modality] = StageOutcome(
                {}, scored, history, own[0].best_epoch, len(having.train), len(having.val), seconds
            )
        model.set_weights(weight, model.centre.clone(), bias)
        scored = self._validate(model, rows.val)
        entry = {"stage": FUSION, "epoch": 1, **scored, "lr": 0.0, "seconds": 0.0}
        self.outcomes[FUSION] = StageOutcome({}, scored, [entry], 1, len(rows.train), len(rows.val), 0.0)
        if self.hooks.on_epoch_end is not None:
            self.hooks.on_epoch_end(entry)

    def _validate(self, model: Regressor, rows: np.ndarray) -> dict[str, Any]:
        predictions = predict(model, Batcher(self.data, model.modalities, self.device), rows)
        return scores(self.data.in_units(predictions), self.data.targets[rows], self.data.labels)

    def _prepare_encoders(self, model: System, trained: Mapping[Modality, FeatureReader]) -> None:
        for modality, encoder in model.readers().items():
            if modality in trained:
                encoder.load_state_dict(trained[modality].state_dict())
            elif isinstance(encoder, BackboneEncoder):
                encoder.load_pretrained()
            elif encoder.standardise:
                features = self.data.features[modality]
                encoder.set_statistics(*feature_statistics(features, self.rows.train))

    def _train(
        self, stage: str, model: Regressor, data: ClipData, rows: Rows, training: TrainingSettings
    ) -> None:
        """Run one stage, or take it from the state to resume from; leaves ``model`` with its best weights."""
        resume = self.hooks.resume or {}
        if stage in resume.get("finished", {}):
            self.outcomes[stage] = StageOutcome(**resume["finished"][stage])
            model.load_state_dict(self.outcomes[stage].weights)
            return
        earlier = resume.get("seconds", 0.0) if resume.get("stage") == stage else 0.0
        started = time.perf_counter() - earlier
        state = fit(
            model,
            pool_once(model, data, self.device),
            rows.train,
            rows.val,
            training,
            self.recipe.objective,
            seed=self.seed,
            stage=stage,
            device=self.device,
            on_epoch_end=self.hooks.on_epoch_end,
            resume=resume["fit"] if resume.get("stage") == stage else None,
            on_checkpoint=lambda dump: self._checkpoint(stage, dump, time.perf_counter() - started),
        )
        seconds = time.perf_counter() - started
        self.outcomes[stage] = _outcome(model, state, rows, seconds)
        self._checkpoint(stage, None, seconds)

    def _checkpoint(self, stage: str, dump: Callable[[], dict[str, Any]] | None, seconds: float) -> None:
        if self.hooks.on_checkpoint is None:
            return

        def build() -> dict[str, Any]:
            finished = {name: dict(vars(outcome)) for name, outcome in self.outcomes.items()}
            under_way = {} if dump is None else {"stage": stage, "fit": dump(), "seconds": seconds}
            return {"finished": finished, **under_way}

        self.hooks.on_checkpoint(build, dump is None)


def feature_statistics(features: PackedFeatures, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each feature over all steps of some clips, (D,) float32 each."""
    count, total, squares = 0, np.zeros(features.feature_dim), np.zeros(features.feature_dim)
    for row in rows:
        steps = features.of(row).astype(np.float64)
        count += len(steps)
        total += steps.sum(axis=0)
        squares += np.square(steps).sum(axis=0)
    mean = total / max(count, 1)
    variance = np.maximum(squares / max(count, 1) - mean**2, 0.0)
    # A feature that is constant up to rounding must not be blown up.
    variance[variance < 1e-10 * mean**2] = 0.0
    return torch.from_numpy(mean).float(), torch.from_numpy(np.sqrt(variance)).float()


def _outcome(model: Regressor, state: FitState, rows: Rows, seconds: float) -> StageOutcome:
    entry = state.history[max(state.best_epoch, 1) - 1] if state.best_epoch else state.history[-1]
    kept = {name: value for name, value in entry.items() if name.startswith(("val_", "num_"))}
    weights = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    return StageOutcome(
        weights, kept, state.history, state.best_epoch, len(rows.train), len(rows.val), seconds
    )
