"""The optimiser and the learning-rate schedule of a recipe."""

import inspect
import math
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from emi_ray.models.fusion import Regressor
from emi_ray.recipe.sections import TrainingSettings

Scheduler = ReduceLROnPlateau | LambdaLR | None


class EagerAdamW(AdamW):
    """AdamW that cannot be compiled with ``torch.compile``; otherwise equal.

    At their first call, these methods of torch's optimisers import ``torch._dynamo`` and sympy, to exclude themselves
    from compilation. The import takes 1.4 s in every training process, and nothing here is compiled.
    """

    step = torch.no_grad()(inspect.unwrap(AdamW.step))
    zero_grad = inspect.unwrap(Optimizer.zero_grad)
    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    state_dict = inspect.unwrap(Optimizer.state_dict)
    load_state_dict = inspect.unwrap(Optimizer.load_state_dict)


def build_optimizer(model: Regressor, training: TrainingSettings) -> Optimizer:
    """Build AdamW with one parameter group for each learning rate."""
    # Groups of the same learning rate are joined, because the fused kernel runs once for each group.
    by_ratio: dict[float, list[nn.Parameter]] = {}
    for group in model.parameter_groups():
        by_ratio.setdefault(group.lr_ratio, []).extend(group.parameters)
    groups: list[dict[str, Any]] = [
        {"params": parameters, "lr": training.lr * ratio}
        for ratio, parameters in by_ratio.items()
        if parameters
    ]
    # Fused AdamW is faster; it is only used if all parameters are float32.
    fused = all(p.dtype == torch.float32 for group in groups for p in group["params"])
    return EagerAdamW(groups, lr=training.lr, weight_decay=training.weight_decay, fused=fused)


def build_scheduler(optimizer: Optimizer, training: TrainingSettings) -> Scheduler:
    """Build the learning-rate schedule that ``training.scheduler`` names; None for a constant learning rate."""
    if training.scheduler == "plateau":
        return ReduceLROnPlateau(
            optimizer, mode="max", factor=training.plateau_factor, patience=training.plateau_patience
        )
    if training.scheduler == "cosine":
        return LambdaLR(optimizer, lambda done: cosine_factor(done, training))
    return None


def step_scheduler(scheduler: Scheduler, val_pearson: float) -> None:
    """Advance the schedule after an epoch."""
    if isinstance(scheduler, ReduceLROnPlateau):
        scheduler.step(val_pearson)
    elif scheduler is not None:
        scheduler.step()


def cosine_factor(done: int, training: TrainingSettings) -> float:
    """Return the factor of the learning rate after ``done`` epochs: a linear warm-up, then half a cosine."""
    if done < training.warmup_epochs:
        # The first epoch must not have a rate of 0, in which nothing would be learned.
        return (done + 1) / (training.warmup_epochs + 1)
    rest = max(1, training.epochs - training.warmup_epochs)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, (done - training.warmup_epochs) / rest)))
