"""Embeddings → predictions: what ``fit`` trains.

A regressor takes one batch of :data:`Inputs` and gives (B, num_labels). It also says which parameters learn
at which rate, relative to the recipe's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from emi_ray.models.encoders import SequenceEncoder
from emi_ray.models.sequences import Inputs
from emi_ray.recipe import FusionSettings
from emi_ray.schema import MODALITIES, Modality


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that learn at ``lr_ratio`` times the learning rate."""

    parameters: list[nn.Parameter]
    lr_ratio: float = 1.0


class UnimodalRegressor(nn.Module):
    """Stage 1: one encoder under a head (Dropout → Linear). The head is left behind in fusion."""

    def __init__(self, modality: Modality, encoder: SequenceEncoder, num_labels: int, dropout: float) -> None:
        super().__init__()
        self.modalities: tuple[Modality, ...] = (modality,)
        self.encoder = encoder
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(encoder.embedding_dim, num_labels))

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup(list(self.parameters()))]

    def forward(self, inputs: Inputs) -> Tensor:
        predictions: Tensor = self.head(self.encoder.encode(inputs[self.modalities[0]]))
        return predictions


class ConcatHead(nn.Module):
    """Concatenate → LayerNorm → Dropout → Linear → GELU → Dropout → Linear, after modality dropout."""

    def __init__(self, embedding_dims: Sequence[int], num_labels: int, settings: FusionSettings) -> None:
        super().__init__()
        total = sum(embedding_dims)
        self.modality_dropout = settings.modality_dropout
        self.mlp = nn.Sequential(
            nn.LayerNorm(total),
            nn.Dropout(settings.dropout),
            nn.Linear(total, settings.hidden),
            nn.GELU(),
            nn.Dropout(settings.dropout),
            nn.Linear(settings.hidden, num_labels),
        )

    def forward(self, embeddings: Sequence[Tensor]) -> Tensor:
        """Embeddings (B, hidden) of each modality → (B, num_labels)."""
        if self.training and self.modality_dropout > 0:
            embeddings = drop_modalities(embeddings, self.modality_dropout)
        predictions: Tensor = self.mlp(torch.cat(list(embeddings), dim=1))
        return predictions


class FusionRegressor(nn.Module):
    """Encoders of several modalities under one head.

    ``frozen`` is enforced: the encoders take no gradient and stay in evaluation mode whatever ``train`` says.
    """

    def __init__(
        self,
        encoders: Mapping[Modality, SequenceEncoder],
        num_labels: int,
        settings: FusionSettings,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        self.modalities = tuple(modality for modality in MODALITIES if modality in encoders)
        self.encoders = nn.ModuleDict({modality: encoders[modality] for modality in self.modalities})
        self.head = ConcatHead(
            [encoders[modality].embedding_dim for modality in self.modalities], num_labels, settings
        )
        self.encoder_lr_ratio = settings.encoder_lr_ratio
        self.frozen = frozen
        if frozen:
            self.encoders.requires_grad_(False)
            self.encoders.eval()

    def train(self, mode: bool = True) -> "FusionRegressor":
        super().train(mode)
        if self.frozen:
            self.encoders.eval()
        return self

    def parameter_groups(self) -> list[ParameterGroup]:
        """The head, then each encoder unless frozen."""
        encoders = [] if self.frozen else [list(encoder.parameters()) for encoder in self.encoders.values()]
        return [
            ParameterGroup(list(self.head.parameters())),
            *(ParameterGroup(parameters, self.encoder_lr_ratio) for parameters in encoders),
        ]

    def embed(self, inputs: Inputs) -> list[Tensor]:
        """The embedding (B, hidden) of each modality, in the order of ``modalities``."""
        return [self.encoder(modality).encode(inputs[modality]) for modality in self.modalities]

    def forward(self, inputs: Inputs) -> Tensor:
        predictions: Tensor = self.head(self.embed(inputs))
        return predictions

    def encoder(self, modality: Modality) -> SequenceEncoder:
        encoder = self.encoders[modality]
        assert isinstance(encoder, SequenceEncoder)
        return encoder


class EmbeddingFusion(nn.Module):
    """A fusion head over embeddings that were computed beforehand and come as sequences of one step."""

    def __init__(self, modalities: Sequence[Modality], head: ConcatHead) -> None:
        super().__init__()
        self.modalities = tuple(modalities)
        self.head = head

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup(list(self.head.parameters()))]

    def forward(self, inputs: Inputs) -> Tensor:
        embeddings = [inputs[modality].groups[0].values.squeeze(1) for modality in self.modalities]
        predictions: Tensor = self.head(embeddings)
        return predictions


Regressor = UnimodalRegressor | FusionRegressor | EmbeddingFusion


def drop_modalities(embeddings: Sequence[Tensor], probability: float) -> list[Tensor]:
    """Zero each modality of each clip with ``probability``; one is kept, survivors grow by 1 / (1 - p)."""
    first = embeddings[0]
    keep = torch.rand(len(first), len(embeddings), device=first.device) >= probability
    # Where all fell, one at random comes back.
    lucky = torch.randint(len(embeddings), (len(first), 1), device=first.device)
    keep.scatter_(1, lucky, keep.gather(1, lucky) | ~keep.any(dim=1, keepdim=True))
    factors = keep.to(first.dtype) / (1.0 - probability)
    return [embedding * factors[:, index : index + 1] for index, embedding in enumerate(embeddings)]
