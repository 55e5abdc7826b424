"""The training loop, in plain torch.

All random generators are seeded at the start of every epoch from (seed, stage, epoch). Random numbers that are not
drawn for whole batches (:mod:`emi_ray.models.dropout`) also depend on the worker. A run that is resumed after any
epoch therefore draws the same random numbers as an uninterrupted run.
"""

import contextlib
import copy
import hashlib
import math
import random
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emi_ray.errors import UserError
from emi_ray.losses import build_objective
from emi_ray.metrics import compute_scores, mean_of_known, pearson
from emi_ray.models.dropout import drawing_for_batch
from emi_ray.models.fusion import Regressor
from emi_ray.models.outputs import Outputs
from emi_ray.recipe.sections import ObjectiveSettings, TrainingSettings
from emi_ray.training.criterion import Criterion
from emi_ray.training.data.batching import Batcher
from emi_ray.training.data.clip_data import ClipData
from emi_ray.training.data.split_rows import Rows
from emi_ray.training.distributed import Team
from emi_ray.training.optimizer import Scheduler, build_optimizer, build_scheduler, step_scheduler
from emi_ray.training.weight_averaging import WeightAverage

INNER_SCORE = "inner_pearson"
"""Key of the history: the Pearson correlation on the held-out inner part of train, which selects the best epoch."""

OnEpochEnd = Callable[[Mapping[str, Any]], bool | None]
"""Called after each epoch with ``stage``, ``epoch``, ``train_loss``, ``val_loss``, ``val_pearson``, …; the stage
ends if it returns True."""

OnCheckpoint = Callable[[Callable[[], dict[str, Any]]], None]
"""Called after every epoch with a function that builds the state to resume from. The function copies all weights,
so it should only be called if the state is stored."""


@dataclass
class FitState:
    """Progress of a fit; a checkpoint stores it besides the model, the optimiser and the scheduler."""

    epoch: int = 0
    best_epoch: int = 0
    best_pearson: float = float("-inf")
    best_weights: dict[str, Tensor] | None = None
    stopped: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)

    def is_over(self, training: TrainingSettings) -> bool:
        """Return whether training has ended: by a hook, by the number of epochs, or by patience."""
        waited = self.epoch - self.best_epoch
        out_of_patience = training.patience is not None and waited >= training.patience
        return self.stopped or self.epoch >= training.epochs or out_of_patience


def fit(
    model: Regressor,
    data: ClipData,
    train: np.ndarray,
    val: np.ndarray,
    training: TrainingSettings,
    objective: ObjectiveSettings,
    *,
    seed: int,
    inner: np.ndarray | None = None,
    stage: str = "fit",
    device: torch.device | None = None,
    on_epoch_end: OnEpochEnd | None = None,
    resume: Mapping[str, Any] | None = None,
    on_checkpoint: OnCheckpoint | None = None,
) -> FitState:
    """Train ``model`` in place; afterwards it has the weights of its best epoch.

    With ``torch.distributed`` initialised, every worker calls this function with the same arguments.

    Args:
        model: the model to train.
        data: all clips.
        train, val: rows of ``data``, (n,) int64.
        training: settings of the optimiser, the schedule and early stopping.
        objective: weights of the losses.
        seed: random seed.
        inner: rows that select the best epoch, lower the learning rate and stop training; None uses ``val``.
        stage: name of the fit in its history; it is also mixed into the seed.
        device: device to train on; by default the CPU.
        on_epoch_end: called after each epoch.
        resume: a state that ``on_checkpoint`` built in the same fit.
        on_checkpoint: called after each epoch.

    Returns:
        The final state; ``history`` has one entry for each epoch.
    """
    rows = Rows(train, val, inner)
    fitting = _Fitting(model, data, rows, training, objective, seed, stage, device)
    if resume is not None:
        fitting.load(resume)
    while not fitting.state.is_over(training):
        entry = fitting.run_epoch()
        if on_epoch_end is not None and on_epoch_end(entry):
            fitting.state.stopped = True
        if on_checkpoint is not None:
            on_checkpoint(fitting.dump)
    if fitting.state.best_weights is not None:
        model.load_state_dict(fitting.state.best_weights)
    return fitting.state


def predict_unit_scale(
    model: Regressor, batcher: Batcher, rows: np.ndarray, team: Team | None = None
) -> np.ndarray:
    """Predict some clips, given their rows (n,); returns (n, L) float32 on the [0, 1] scale, in the same order."""
    team = team or Team()
    model.eval()
    places = {int(row): place for place, row in enumerate(rows)}
    results: list[tuple[np.ndarray, np.ndarray]] = []
    with torch.inference_mode():
        for batch in batcher.evaluation_batches(rows):
            share = team.share(batch)
            own = model(batcher.inputs(share)) if len(share) else batcher.targets(share)
            gathered = team.gather(own, len(batch))
            results.append((team.arrange(batch), gathered.cpu().numpy()))
    order = [places[int(row)] for batch, _ in results for row in batch]
    values = np.concatenate([part for _, part in results])
    return values[np.argsort(order)]


def stopping_score(entry: Mapping[str, Any]) -> float:
    """Return the Pearson correlation of an epoch that selects the best epoch."""
    return float(entry.get(INNER_SCORE, entry["val_pearson"]))


def seed_of(*parts: int | str) -> int:
    """Return a 64-bit hash of ``parts``."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def seed_everything(*parts: int | str) -> None:
    """Seed the global generators of Python, numpy and torch with a hash of ``parts``."""
    seed = seed_of(*parts)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002, for libraries that still draw from the global generator
    torch.manual_seed(seed)


class _Fitting:
    """The state of one fit over all its epochs."""

    def __init__(
        self,
        model: Regressor,
        data: ClipData,
        rows: Rows,
        training: TrainingSettings,
        objective: ObjectiveSettings,
        seed: int,
        stage: str,
        device: torch.device | None,
    ) -> None:
        self.device = device or torch.device("cpu")
        self.model = model.to(self.device)
        self.data, self.rows = data, rows
        self.training, self.seed, self.stage = training, seed, stage
        self.team = Team.current()
        self.batcher = Batcher(data, model.modalities, self.device)
        self.val_loss = build_objective(objective)
        self.own_loss = objective.loss
        self.criterion = Criterion(objective, complete=bool(np.isfinite(data.targets[rows.train]).all()))
        self.optimizer = build_optimizer(model, training)
        self.scheduler: Scheduler = build_scheduler(self.optimizer, training)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.val_targets = self.batcher.targets(rows.val)
        self.average = None if training.ema_decay is None else WeightAverage(model, training.ema_decay)
        self.draws = torch.Generator(self.device)
        self.use_amp = training.amp and self.device.type == "cuda"
        self.state = FitState()

    def run_epoch(self) -> dict[str, Any]:
        """Train for one epoch and validate; returns the entry of the history."""
        started = time.perf_counter()
        state = self.state
        state.epoch += 1
        lr = self.optimizer.param_groups[0]["lr"]
        train_loss = self._train()
        if self.own_loss is not None and not math.isfinite(train_loss):
            raise UserError(
                f"objective.loss = '{self.own_loss}' gave a value or a gradient that is not finite in epoch "
                f"{state.epoch} of {self.stage}. Select the known targets (~targets.isnan()) before computing."
            )
        with contextlib.nullcontext() if self.average is None else self.average.in_place():
            val_scores, val_loss = self._validate()
            chosen_by = stopping_score(val_scores)
            if chosen_by > state.best_pearson + self.training.min_improvement:
                state.best_pearson, state.best_epoch = chosen_by, state.epoch
                state.best_weights = _copy_weights(self.model)
        step_scheduler(self.scheduler, chosen_by)
        entry = {
            "stage": self.stage,
            "epoch": state.epoch,
            "train_loss": train_loss,
            "val_loss": val_loss,
            **val_scores,
            "lr": lr,
            "seconds": time.perf_counter() - started,
        }
        state.history.append(entry)
        return entry

    def _validate(self) -> tuple[dict[str, float], float]:
        """Compute scores and loss on the validation rows, and the Pearson correlation on the inner part, if any."""
        predictions = predict_unit_scale(self.model, self.batcher, self.rows.val, self.team)
        loss = self.val_loss(torch.from_numpy(predictions).to(self.device), self.val_targets)
        found = compute_scores(
            self.data.in_units(predictions), self.data.targets[self.rows.val], self.data.labels
        )
        if self.rows.inner is not None:
            own = self.data.in_units(predict_unit_scale(self.model, self.batcher, self.rows.inner, self.team))
            found[INNER_SCORE] = mean_of_known(pearson(own, self.data.targets[self.rows.inner]))
        return found, float(loss)

    def dump(self) -> dict[str, Any]:
        """Return the complete state as tensors and plain values, for :meth:`load`."""
        return {
            "model": _copy_weights(self.model),
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "scheduler": {} if self.scheduler is None else self.scheduler.state_dict(),
            "average": [] if self.average is None else self.average.dump(),
            "state": dict(vars(self.state), history=list(self.state.history)),
        }

    def load(self, dumped: Mapping[str, Any]) -> None:
        """Restore a state of :meth:`dump`."""
        self.model.load_state_dict(dumped["model"])
        self.optimizer.load_state_dict(dumped["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(dumped["scheduler"])
        if self.average is not None:
            self.average.load(dumped["average"])
        self.state = FitState(**dumped["state"])

    def _train(self) -> float:
        """Run the optimiser steps of one epoch; returns the mean loss of the batches."""
        seed_everything(self.seed, self.stage, self.state.epoch, self.team.rank)
        self.draws.manual_seed(seed_of(self.seed, self.stage, self.state.epoch) % 2**63)
        self.model.train()
        self.criterion.start_epoch()
        training = self.training
        order_seed = [self.seed, zlib.crc32(self.stage.encode()), self.state.epoch]
        batches = self.batcher.training_batches(
            self.rows.train, training.batch_size, training.bucket_batches, order_seed
        )
        losses = torch.stack([self._step(batch) for batch in batches])
        return float(losses.mean())

    def _step(self, batch: np.ndarray) -> Tensor:
        self.optimizer.zero_grad()
        outputs = self._outputs(batch)
        loss = self.criterion(outputs, self.batcher.targets(self.team.arrange(batch)))
        if loss.requires_grad:
            loss.backward()
        self.team.sum_gradients(self.parameters)
        if self.training.grad_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.training.grad_clip)
        self.optimizer.step()
        if self.average is not None:
            self.average.update()
        return loss.detach()

    def _outputs(self, batch: np.ndarray) -> Outputs:
        """Return the model's outputs for a whole batch; this worker computes only its share of it."""
        share = self.team.share(batch)
        # If a batch has fewer clips than there are workers, a worker without a clip computes one anyway, because it
        # needs the form of the outputs to receive those of the others.
        own, places = (share, self.team.places) if len(share) else (batch[:1], slice(1))
        with (
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.use_amp),
            drawing_for_batch(self.draws, len(batch), places),
        ):
            outputs = self.model.outputs(self.batcher.inputs(own))
        if self.team.size == 1 and not self.use_amp:
            return outputs
        packed = outputs.pack().float()[: len(share)]
        return outputs.unpack(self.team.gather(packed, len(batch)))


def _copy_weights(model: Regressor) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
