"""Pooling of steps into one vector: ``values`` (B, T, D) and ``mask`` (B, T), True for real steps, to (B, out_dim).

The values of masked steps have no influence, as long as they are finite. A clip whose steps are all masked is pooled
to zeros.

``scale`` (D,) multiplies the features only in the computation of the pooling weights; the result keeps the units of
``values``. Since the weights sum to 1, the caller can scale the pooled vector instead of every step, which is
cheaper.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MeanPooling(nn.Module):
    """Mean over the real steps."""

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        self.out_dim = feature_dim

    def forward(self, values: Tensor, mask: Tensor, scale: Tensor | None = None) -> Tensor:
        return _weighted_sum(values, _uniform(mask, values.dtype))


class MeanStdPooling(nn.Module):
    """Mean and population standard deviation over the real steps, concatenated."""

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        self.out_dim = 2 * feature_dim

    def forward(self, values: Tensor, mask: Tensor, scale: Tensor | None = None) -> Tensor:
        share = _uniform(mask, values.dtype)
        mean = _weighted_sum(values, share)
        variance = _weighted_sum((values - mean.unsqueeze(1)).square(), share)
        # The lower bound keeps the gradient of the square root finite if a feature is constant.
        deviation = torch.where(variance > 0, variance.clamp(min=1e-12).sqrt(), 0.0)
        return torch.cat([mean, deviation], dim=1)


class LastPooling(nn.Module):
    """The last real step."""

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        self.out_dim = feature_dim

    def forward(self, values: Tensor, mask: Tensor, scale: Tensor | None = None) -> Tensor:
        steps = torch.arange(1, mask.shape[1] + 1, device=mask.device)
        # The product is largest at the last real step; real steps need not be contiguous.
        last = (mask * steps).argmax(dim=1)
        picked = values[torch.arange(len(values), device=values.device), last]
        return picked * mask.any(dim=1, keepdim=True)


class AttentionPooling(nn.Module):
    """Softmax-weighted sum of the real steps; one linear layer scores each step."""

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        self.out_dim = feature_dim
        self.scorer = nn.Linear(feature_dim, 1, bias=False)  # a bias would cancel in the softmax

    def forward(self, values: Tensor, mask: Tensor, scale: Tensor | None = None) -> Tensor:
        weight = self.scorer.weight if scale is None else self.scorer.weight * scale
        scores = F.linear(values, weight).squeeze(-1)
        # The lowest finite number and not -inf, with which a clip without steps would give NaN.
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        return _weighted_sum(values, torch.softmax(scores, dim=1).masked_fill(~mask, 0.0))


POOLINGS: dict[str, type[MeanPooling | MeanStdPooling | LastPooling | AttentionPooling]] = {
    "mlp": MeanPooling,
    "mean": MeanPooling,
    "mean_std": MeanStdPooling,
    "last": LastPooling,
    "attention": AttentionPooling,
}
"""The pooling of each encoder ``type``."""


def _uniform(mask: Tensor, dtype: torch.dtype) -> Tensor:
    return mask.to(dtype) / mask.sum(dim=1, keepdim=True).clamp(min=1)


def _weighted_sum(values: Tensor, weights: Tensor) -> Tensor:
    # (B, 1, T) x (B, T, D) to (B, D), without a weighted copy of all steps.
    return torch.bmm(weights.unsqueeze(1), values).squeeze(1)
