"""The workers that train one model together: the processes of ``torch.distributed``, or a single process.

Every worker knows each global batch and computes its share of it. CCC and Pearson losses are not sums over clips,
so the average of the workers' losses would not be the loss of the whole batch. Therefore the workers exchange their
predictions, and each computes the loss of the whole batch. Gradients flow only through a worker's own predictions;
the sum of all workers' gradients is exactly the gradient of the whole batch.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Team:
    """Rank of this worker and number of workers."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> "Team":
        """Return the team of this process."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    @property
    def places(self) -> slice:
        """The positions of this worker's clips within a batch."""
        return slice(self.rank, None, self.size)

    def share(self, rows: np.ndarray) -> np.ndarray:
        """Return this worker's rows of a batch."""
        return rows[self.places]

    def arrange(self, rows: np.ndarray) -> np.ndarray:
        """Return the rows of a batch in the order in which ``gather`` returns their predictions."""
        return np.concatenate([rows[rank :: self.size] for rank in range(self.size)])

    def gather(self, local: Tensor, total: int) -> Tensor:
        """Collect the predictions of the whole batch, (total, L); gradients flow only to this worker's own."""
        if self.size == 1:
            return local
        counts = [len(range(rank, total, self.size)) for rank in range(self.size)]
        # all_gather needs tensors of equal shape, but shares differ by one clip: pad, then cut off.
        padded = local.new_zeros((max(counts), *local.shape[1:]))
        padded[: len(local)] = local.detach()
        received = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(received, padded)
        parts: list[Tensor] = [part[:count] for part, count in zip(received, counts, strict=True)]
        # all_gather has no gradient; this worker's own part is put back with its graph.
        parts[self.rank] = local
        return torch.cat(parts)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its sum over the workers, in a single exchange.

        A parameter that no worker's clips used keeps no gradient, so that the optimiser leaves it unchanged, as with
        one worker: with a gradient of zeros, weight decay and momentum would still change it.
        """
        if self.size == 1:
            return
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        used = torch.tensor([float(p.grad is not None) for p in trained], device=trained[0].device)
        # The exchange needs equal lengths, so an absent gradient is sent as zeros.
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        flat = torch.cat([used, *(gradient.reshape(-1) for gradient in gradients)])
        dist.all_reduce(flat)
        users, *sums = flat.split([len(trained), *(gradient.numel() for gradient in gradients)])
        for parameter, gradient, count, summed in zip(trained, gradients, users.tolist(), sums, strict=True):
            # Copied into a tensor of the parameter's own type.
            gradient.copy_(summed.view_as(gradient))
            parameter.grad = gradient if count else None

    def agree(self, decision: bool, device: torch.device) -> bool:
        """Return the decision of the first worker, so that all workers do the same."""
        if self.size == 1:
            return decision
        flag = torch.tensor([decision], dtype=torch.uint8, device=device)
        dist.broadcast(flag, src=0)
        return bool(flag.item())
