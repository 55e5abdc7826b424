"""Features → embedding. One class for every modality: what differs is in its settings."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from emi_ray.models.pooling import POOLINGS
from emi_ray.models.sequences import Sequences
from emi_ray.recipe import EncoderSettings

RECURRENT = {"gru": nn.GRU, "lstm": nn.LSTM}


class SequenceEncoder(nn.Module):
    """(standardise) → (GRU or LSTM) → pooling → (L2) → LayerNorm → Linear → GELU → Dropout → LayerNorm.

    The paper's four encoders are this with ``type`` ``mlp`` (text) or ``attention`` (the others). A clip that
    lacks the modality has a zero vector where others have their pooled one.
    """

    def __init__(self, feature_dim: int, settings: EncoderSettings) -> None:
        super().__init__()
        self.feature_dim = feature_dim
        self.embedding_dim = settings.hidden
        self.standardise = settings.standardise
        self.l2_normalise = settings.type == "mlp"
        self.feature_mean: Tensor
        self.feature_scale: Tensor
        self.register_buffer("feature_mean", torch.zeros(feature_dim))
        self.register_buffer("feature_scale", torch.ones(feature_dim))
        self.recurrent = _build_recurrent(feature_dim, settings)
        directions = 2 if settings.bidirectional else 1
        step_dim = settings.recurrent_hidden * directions if self.recurrent else feature_dim
        self.pooling = POOLINGS[settings.type](step_dim)
        self.mlp = nn.Sequential(
            nn.LayerNorm(self.pooling.out_dim),
            nn.Linear(self.pooling.out_dim, settings.hidden),
            nn.GELU(),
            nn.Dropout(settings.dropout),
            nn.LayerNorm(settings.hidden),
        )

    def set_statistics(self, mean: Tensor, deviation: Tensor) -> None:
        """Set what ``standardise`` subtracts and divides by, both (D,); 1 where a feature never varies."""
        self.feature_mean.copy_(mean)
        self.feature_scale.copy_(torch.where(deviation > 0, 1.0 / deviation.clamp(min=1e-12), 1.0))

    def pool(self, values: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D) and (B, T) → (B, pooling.out_dim)."""
        if self.recurrent is not None:
            if self.standardise:
                values = (values - self.feature_mean) * self.feature_scale
            pooled: Tensor = self.pooling(_run_recurrent(self.recurrent, values, mask), mask)
        elif self.standardise:
            pooled = self._standardise_pooled(self.pooling(values, mask, self.feature_scale), mask)
        else:
            pooled = self.pooling(values, mask)
        return F.normalize(pooled, dim=1) if self.l2_normalise else pooled

    def _standardise_pooled(self, pooled: Tensor, mask: Tensor) -> Tensor:
        """The same as standardising every step before pooling, at the cost of one step."""
        mean, *deviation = pooled.split(self.feature_dim, dim=1)
        parts = [
            (mean - self.feature_mean) * self.feature_scale,
            *(d * self.feature_scale for d in deviation),
        ]
        return torch.cat(parts, dim=1) * mask.any(dim=1, keepdim=True)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """``values`` (B, T, D), ``mask`` (B, T) → (B, hidden)."""
        embedding: Tensor = self.mlp(self.pool(values, mask))
        return embedding

    def encode(self, sequences: Sequences) -> Tensor:
        """One modality of a batch → (B, hidden), in the batch's order."""
        pooled = torch.cat([self.pool(group.values, group.mask) for group in sequences.groups])
        if sequences.order is not None:
            pooled = pooled[sequences.order]
        embedding: Tensor = self.mlp(pooled)
        return embedding


def _build_recurrent(feature_dim: int, settings: EncoderSettings) -> nn.GRU | nn.LSTM | None:
    if settings.recurrent is None:
        return None
    return RECURRENT[settings.recurrent](
        feature_dim,
        settings.recurrent_hidden,
        num_layers=settings.recurrent_layers,
        bidirectional=settings.bidirectional,
        dropout=settings.dropout if settings.recurrent_layers > 1 else 0.0,
        batch_first=True,
    )


def _run_recurrent(net: nn.GRU | nn.LSTM, values: Tensor, mask: Tensor) -> Tensor:
    """Run over the real steps only. A clip without any runs over one step, which stays masked."""
    lengths = mask.sum(dim=1).clamp(min=1).cpu()
    packed = pack_padded_sequence(values, lengths, batch_first=True, enforce_sorted=False)
    return pad_packed_sequence(net(packed)[0], batch_first=True, total_length=values.shape[1])[0]
