"""An exponential moving average of a model's weights (EMA), to validate and to keep."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_WARM_UP = 10


class WeightAverage:
    """After step n the average moves by 1 - min(decay, (1 + n) / (10 + n)) towards the weights.

    The smaller decay of the first steps lets the average forget the random start.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._weights = [p for p in model.parameters() if p.requires_grad]
        self._average = [p.detach().clone() for p in self._weights]
        self._decay = decay
        self._steps = 0

    def update(self) -> None:
        """Take in the weights after an optimiser's step."""
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (_WARM_UP + self._steps))
        torch._foreach_lerp_(self._average, [p.detach() for p in self._weights], 1.0 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside the block the model has the average as its weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def dump(self) -> list[Tensor]:
        """The number of steps and the averages."""
        return [torch.tensor(self._steps), *(average.cpu().clone() for average in self._average)]

    def load(self, dumped: Sequence[Tensor]) -> None:
        self._steps = int(dumped[0])
        for average, saved in zip(self._average, dumped[1:], strict=True):
            average.copy_(saved)

    def _swap(self) -> None:
        for weight, average in zip(self._weights, self._average, strict=True):
            weight.data, average.data = average.data, weight.data
