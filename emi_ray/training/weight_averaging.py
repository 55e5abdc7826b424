"""An exponential moving average (EMA) of a model's weights, which is validated and kept instead of the weights."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

# As in TensorFlow's ExponentialMovingAverage, whose num_updates gives the same schedule.
_WARM_UP = 10


class WeightAverage:
    """The moving average of all trainable parameters of a model.

    In step n the average moves towards the weights by the share 1 - min(decay, (1 + n) / (10 + n)). The smaller decay
    in the first steps lets the average forget the random initial weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._weights = [p for p in model.parameters() if p.requires_grad]
        self._average = [p.detach().clone() for p in self._weights]
        self._decay = decay
        self._steps = 0

    def update(self) -> None:
        """Update the average; call it after each optimiser step."""
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (_WARM_UP + self._steps))
        torch._foreach_lerp_(self._average, [p.detach() for p in self._weights], 1.0 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Use the average as the model's weights while the ``with`` block runs."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def dump(self) -> list[Tensor]:
        """Return the number of steps and the averages, as state for :meth:`load`."""
        return [torch.tensor(self._steps), *(average.cpu().clone() for average in self._average)]

    def load(self, dumped: Sequence[Tensor]) -> None:
        """Restore a state of :meth:`dump`."""
        self._steps = int(dumped[0])
        for average, saved in zip(self._average, dumped[1:], strict=True):
            average.copy_(saved)

    def _swap(self) -> None:
        for weight, average in zip(self._weights, self._average, strict=True):
            # Storage is exchanged instead of copied, so this costs no memory and no time.
            weight.data, average.data = average.data, weight.data
