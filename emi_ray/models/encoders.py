"""Encoders, which turn features into an embedding. All modalities share one class with different settings."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from emi_ray.models.dropout import Dropout
from emi_ray.models.flat_attention import attend
from emi_ray.models.outputs import ParameterGroup
from emi_ray.models.pooling import POOLINGS, AttentionPooling
from emi_ray.models.sequences import Sequences
from emi_ray.recipe.sections import EncoderSettings

RECURRENT = {"gru": nn.GRU, "lstm": nn.LSTM}


class FeatureReader(nn.Module):
    """Base class of modules that read features (B, T, D) and may standardise them.

    Attributes:
        embedding_dim: size of the output of ``encode``.
        feature_mean: (D,) mean over the training clips.
        feature_scale: (D,) reciprocal of the standard deviation over the training clips.
    """

    embedding_dim: int

    def __init__(self, feature_dim: int, standardise: bool) -> None:
        super().__init__()
        self.feature_dim = feature_dim
        self.standardise = standardise
        self.feature_mean: Tensor
        self.feature_scale: Tensor
        self.register_buffer("feature_mean", torch.zeros(feature_dim))
        self.register_buffer("feature_scale", torch.ones(feature_dim))

    def set_statistics(self, mean: Tensor, deviation: Tensor) -> None:
        """Set the mean and standard deviation (D,) for ``standardise``; features that never vary are not scaled."""
        self.feature_mean.copy_(mean)
        self.feature_scale.copy_(torch.where(deviation > 0, 1.0 / deviation.clamp(min=1e-12), 1.0))

    def encode(self, sequences: Sequences) -> Tensor:
        """Encode one modality of a batch; returns (B, embedding_dim) in the order of the batch."""
        raise NotImplementedError

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return the parameters, grouped by their relative learning rates."""
        return [ParameterGroup(list(self.parameters()))]


class SequenceEncoder(FeatureReader):
    """(standardise) → (GRU or LSTM) → pooling → (L2) → LayerNorm → Linear → GELU → Dropout → LayerNorm.

    Parts in brackets are optional. The layers after the pooling are the paper's MLP; ``projection`` can replace them
    by one linear layer or by nothing. The paper's four encoders have ``type`` ``mlp`` (text) or ``attention`` (the
    others). The pooled vector of a clip that lacks the modality is zero.
    """

    def __init__(self, feature_dim: int, settings: EncoderSettings) -> None:
        super().__init__(feature_dim, settings.standardise)
        self.max_steps = settings.max_steps
        self.l2_normalise = settings.type == "mlp"
        self.recurrent = _build_recurrent(feature_dim, settings)
        directions = 2 if settings.bidirectional else 1
        step_dim = settings.recurrent_hidden * directions if self.recurrent else feature_dim
        self.pooling = POOLINGS[settings.type](step_dim)
        self.mlp = build_projection(self.pooling.out_dim, settings)
        self.embedding_dim = self.pooling.out_dim if settings.projection == "none" else settings.hidden

    @property
    def pools_alike(self) -> bool:
        """Whether the pooled vectors never change during training, so that they can be computed once in advance."""
        return self.recurrent is None and not isinstance(self.pooling, AttentionPooling)

    def pool(self, values: Tensor, mask: Tensor) -> Tensor:
        """Pool steps ``values`` (B, T, D) with ``mask`` (B, T); returns (B, pooling.out_dim)."""
        if self.max_steps is not None:
            values, mask = values[:, : self.max_steps], mask[:, : self.max_steps]
        # A recurrent net is not linear, so every step must be standardised before it.
        if self.recurrent is not None:
            if self.standardise:
                values = (values - self.feature_mean) * self.feature_scale
            pooled: Tensor = self.pooling(_run_recurrent(self.recurrent, values, mask), mask)
        # Only the pooled vector is standardised, but the scores of the steps must see the scale.
        elif self.standardise:
            pooled = self._standardise_pooled(self.pooling(values, mask, self.feature_scale), mask)
        else:
            pooled = self.pooling(values, mask)
        return F.normalize(pooled, dim=1) if self.l2_normalise else pooled

    def _standardise_pooled(self, pooled: Tensor, mask: Tensor) -> Tensor:
        """Standardise pooled vectors, (B, out_dim).

        Pooling weights sum to 1, so this equals standardising every step before the pooling, but costs only one step.
        """
        # (B, D) each; mean_std pooling has a deviation besides the mean, which is scaled but not shifted.
        mean, *deviation = pooled.split(self.feature_dim, dim=1)
        parts = [
            (mean - self.feature_mean) * self.feature_scale,
            *(d * self.feature_scale for d in deviation),
        ]
        # Without this, a clip without steps would become minus the mean instead of zero.
        return torch.cat(parts, dim=1) * mask.any(dim=1, keepdim=True)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """Encode padded features ``values`` (B, T, D) with ``mask`` (B, T) of real steps; returns (B, hidden)."""
        embedding: Tensor = self.mlp(self.pool(values, mask))
        return embedding

    def encode(self, sequences: Sequences) -> Tensor:
        """Encode one modality of a batch; returns (B, hidden) in the order of the batch."""
        embedding: Tensor = self.mlp(self.pool_batch(sequences))
        return embedding

    def pool_batch(self, sequences: Sequences) -> Tensor:
        """Pool one modality of a batch; returns (B, pooling.out_dim) in the order of the batch."""
        # Vectors that were pooled in advance are sequences of one step, (B, 1, out_dim).
        if sequences.pooled:
            return sequences.pad().groups[0].values.squeeze(1)
        if sequences.flat is not None and self._reads_flat():
            return self._pool_flat(sequences)
        padding = sequences.pad()
        return padding.in_batch_order([self.pool(group.values, group.mask) for group in padding.groups])

    def _reads_flat(self) -> bool:
        return isinstance(self.pooling, AttentionPooling) and self.recurrent is None and not self.max_steps

    def _pool_flat(self, sequences: Sequences) -> Tensor:
        assert sequences.flat is not None
        assert isinstance(self.pooling, AttentionPooling)
        weight = self.pooling.scorer.weight.squeeze(0)
        if not self.standardise:
            return attend(sequences.flat, weight)
        # The scale belongs to the features, but multiplying the weight is the same and cheaper.
        pooled = attend(sequences.flat, weight * self.feature_scale)
        return self._standardise_pooled(pooled, sequences.present[:, None])


def build_projection(width: int, settings: EncoderSettings) -> nn.Module:
    """Build the layers after the pooling: from (B, width) to (B, settings.hidden), or the identity."""
    if settings.projection == "none":
        return nn.Identity()
    if settings.projection == "linear":
        return nn.Linear(width, settings.hidden)
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, settings.hidden),
        nn.GELU(),
        Dropout(settings.dropout),
        nn.LayerNorm(settings.hidden),
    )


def _build_recurrent(feature_dim: int, settings: EncoderSettings) -> nn.GRU | nn.LSTM | None:
    if settings.recurrent is None:
        return None
    return RECURRENT[settings.recurrent](
        feature_dim,
        settings.recurrent_hidden,
        num_layers=settings.recurrent_layers,
        bidirectional=settings.bidirectional,
        # torch warns about dropout in a net with one layer, where it has no effect.
        dropout=settings.dropout if settings.recurrent_layers > 1 else 0.0,
        batch_first=True,
    )


def _run_recurrent(net: nn.GRU | nn.LSTM, values: Tensor, mask: Tensor) -> Tensor:
    """Run a recurrent net over the real steps only.

    A packed sequence cannot be empty, so a clip without steps runs over one step, which stays masked afterwards.
    """
    # pack_padded_sequence needs the lengths on the CPU.
    lengths = mask.sum(dim=1).clamp(min=1).cpu()
    packed = pack_padded_sequence(values, lengths, batch_first=True, enforce_sorted=False)
    # total_length: the output is as long as the mask, even if no clip of the group fills it.
    return pad_packed_sequence(net(packed)[0], batch_first=True, total_length=values.shape[1])[0]
