"""Dropout that is the same however many workers share a batch.

A worker computes some clips of each batch. It draws for the whole batch, from a generator that all workers seed
alike, and keeps what is for its own clips. Outside :func:`drawing_for_batch` torch's own generator is used.
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
    own: slice


_draws: ContextVar[_Draws | None] = ContextVar("draws", default=None)


@contextmanager
def drawing_for_batch(generator: torch.Generator, num_clips: int, own: slice) -> Iterator[None]:
    """While this worker computes the rows ``own`` of a batch of ``num_clips``, draw for all of them."""
    token = _draws.set(_Draws(generator, num_clips, own))
    try:
        yield
    finally:
        _draws.reset(token)


def draw_rows(num_clips: int, draw: Callable[[int, torch.Generator | None], Tensor]) -> Tensor:
    """Random numbers of ``num_clips`` clips, one row each, in the batch's order.

    Args:
        draw: given a number of rows and a generator (None: torch's own), draws these.
    """
    draws = _draws.get()
    return draw(num_clips, None) if draws is None else draw(draws.num_clips, draws.generator)[draws.own]


class Dropout(nn.Module):
    """``nn.Dropout`` of one vector a clip, (B, …)."""

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
