"""Dropout whose random numbers do not depend on the number of workers that share a batch.

With several workers, each computes only some clips of a batch. To drop the same values as a single worker, each
worker draws random numbers for the whole batch, from a generator that all workers seed equally, and keeps the rows
of its own clips. Outside of :func:`drawing_for_batch`, torch's global generator is used.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class _Draws:
    generator: torch.Generator
    num_clips: int
    local: slice


# A context variable, so that modules deep in a model need no further argument.
_draws: ContextVar[_Draws | None] = ContextVar("draws", default=None)


@contextmanager
def drawing_for_batch(generator: torch.Generator, num_clips: int, local: slice) -> Iterator[None]:
    """Draw random numbers for a whole batch while this worker computes only some of its rows.

    Args:
        generator: a generator that all workers have seeded equally.
        num_clips: size of the whole batch.
        local: the rows of the batch that this worker computes.
    """
    token = _draws.set(_Draws(generator, num_clips, local))
    try:
        yield
    finally:
        _draws.reset(token)


def draw_rows(num_clips: int, draw: Callable[[int, torch.Generator | None], Tensor]) -> Tensor:
    """Draw random numbers for ``num_clips`` clips, one row each, in the order of the batch.

    Args:
        num_clips: number of clips that this worker computes.
        draw: draws that many rows with a generator (None: torch's global one).
    """
    draws = _draws.get()
    return draw(num_clips, None) if draws is None else draw(draws.num_clips, draws.generator)[draws.local]


class Dropout(nn.Module):
    """Like ``nn.Dropout``, for inputs (B, …) with one row per clip, and independent of the number of workers."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, values: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return values
        keep = 1 - self.probability

        def draw(num_clips: int, generator: torch.Generator | None) -> Tensor:
            return values.new_empty((num_clips, *values.shape[1:])).bernoulli_(keep, generator=generator)

        return values * draw_rows(len(values), draw) / keep
