"""Embeddings → predictions: what ``fit`` trains.

A regressor takes one batch of :data:`Inputs`; ``forward`` gives predictions (B, num_labels), ``outputs`` also
what only the objective looks at. It also says which parameters learn at which rate, relative to the recipe's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from emi_ray.models.dropout import Dropout, draw_rows
from emi_ray.models.encoders import FeatureReader
from emi_ray.models.outputs import Outputs, ParameterGroup, Part, Targets
from emi_ray.models.sequences import Inputs
from emi_ray.recipe_schema import FusionSettings
from emi_ray.schema import Stream


class Regressor(nn.Module):
    """Base of all: what it reads, encoders, parameter groups, outputs.

    Attributes:
        modalities: names of the encoders, which are modalities where a recipe has one encoder of each.
    """

    modalities: tuple[Stream, ...]

    def outputs(self, inputs: Inputs) -> Outputs:
        raise NotImplementedError

    def forward(self, inputs: Inputs) -> Tensor:
        return self.outputs(inputs).predictions

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup([p for p in self.parameters() if p.requires_grad])]

    def encoder_of(self, modality: Stream) -> FeatureReader | None:
        """Its encoder of a modality, if one vector comes of that modality; else None."""
        return None

    def readers(self) -> dict[Stream, FeatureReader]:
        """Its parts that read features."""
        encoders = {modality: self.encoder_of(modality) for modality in self.modalities}
        return {modality: encoder for modality, encoder in encoders.items() if encoder is not None}


class UnimodalRegressor(Regressor):
    """Stage 1: one encoder under a head (Dropout → Linear). The head is left behind in fusion."""

    def __init__(self, modality: Stream, encoder: FeatureReader, targets: Targets, dropout: float) -> None:
        super().__init__()
        self.modalities = (modality,)
        self.encoder = encoder
        self.targets = targets
        self.head = nn.Sequential(Dropout(dropout), targets.last_layer(encoder.embedding_dim))

    def parameter_groups(self) -> list[ParameterGroup]:
        """The head, then the encoder's."""
        return [ParameterGroup(list(self.head.parameters())), *self.encoder.parameter_groups()]

    def encoder_of(self, modality: Stream) -> FeatureReader | None:
        return self.encoder

    def outputs(self, inputs: Inputs) -> Outputs:
        raw = self.head(self.encoder.encode(inputs[self.modalities[0]]))
        return self.targets.read(raw)


class MissingModalities(nn.Module):
    """What fusion sees of modalities that a clip lacks, and modality dropout in training.

    Several encoders may read one modality: it is dropped from all of them or from none.

    ``zero``: embeddings as they come; dropped ones are zero and survivors grow by 1 / (1 - p), as in the
    paper. ``token``: a learned vector stands for what is missing or dropped. ``mask``: zeros stand for it,
    and one number a modality, appended to the embeddings, says whether it is there.
    """

    def __init__(
        self, dims: Mapping[Stream, int], settings: FusionSettings, modality_of: Callable[[Stream], str] = str
    ) -> None:
        super().__init__()
        owners = [modality_of(stream) for stream in dims]
        self._owner = [list(dict.fromkeys(owners)).index(owner) for owner in owners]
        self.kind = settings.missing
        self.dropout = settings.modality_dropout
        self.num_flags = len(dims) if self.kind == "mask" else 0
        if self.kind == "token":
            tokens = [nn.Parameter(torch.randn(dim) * 0.02) for dim in dims.values()]
            self.tokens = nn.ParameterList(tokens)

    def keep(self, present: Sequence[Tensor]) -> Tensor:
        """Presence (B,) for each encoder → (B, E) bool, what is not dropped. In training one draw a call."""
        there = torch.stack(list(present), dim=1)
        if not self.training or self.dropout == 0:
            return torch.ones_like(there)
        of_modality = [
            torch.stack([p for p, own in zip(present, self._owner, strict=True) if own == index]).any(dim=0)
            for index in range(max(self._owner) + 1)
        ]
        return kept_modalities(torch.stack(of_modality, dim=1), self.dropout)[:, self._owner]

    def stand_in(self, index: int, embedding: Tensor, there: Tensor) -> Tensor:
        """The embedding (B, D) of a modality where ``there`` (B,), elsewhere what stands for it."""
        if self.kind == "token":
            return torch.where(there[:, None], embedding, self.tokens[index])
        return embedding * there[:, None]

    def forward(
        self, embeddings: Sequence[Tensor], present: Sequence[Tensor], kept: Tensor | None = None
    ) -> list[Tensor]:
        """Embeddings (B, D) and presence (B,) of each modality → embeddings, and the flags (B, M) if any.

        Args:
            kept: what ``keep`` drew; by default it is drawn here.
        """
        kept = self.keep(present) if kept is None else kept
        if self.kind == "zero":
            if not self.training or self.dropout == 0:
                return list(embeddings)
            factors = kept.to(embeddings[0].dtype) / (1.0 - self.dropout)
            return [e * factor[:, None] for e, factor in zip(embeddings, factors.unbind(dim=1), strict=True)]
        there = torch.stack(list(present), dim=1) & kept
        columns = enumerate(zip(embeddings, there.unbind(dim=1), strict=True))
        filled = [self.stand_in(index, e, column) for index, (e, column) in columns]
        return [*filled, there.to(embeddings[0].dtype)] if self.kind == "mask" else filled


class ConcatHead(nn.Module):
    """Concatenate → LayerNorm → Dropout → Linear → GELU → Dropout → Linear, after modality dropout.

    A modality with a latent code (``fusion.latents``) adds to its embedding what a draw from that code
    says: means and log variances are linear in the embedding; in evaluation the mean is taken.
    """

    def __init__(
        self,
        embedding_dims: Mapping[Stream, int],
        targets: Targets,
        settings: FusionSettings,
        modality_of: Callable[[Stream], str] = str,
    ) -> None:
        super().__init__()
        self.modalities = tuple(embedding_dims)
        self.targets = targets
        self.missing = MissingModalities(embedding_dims, settings, modality_of)
        total = sum(embedding_dims.values()) + self.missing.num_flags
        self.mlp = nn.Sequential(
            nn.LayerNorm(total),
            Dropout(settings.dropout),
            nn.Linear(total, settings.hidden),
            nn.GELU(),
            Dropout(settings.dropout),
            targets.last_layer(settings.hidden),
        )
        branches = embedding_dims if targets.branches else {}
        self.branches = nn.ModuleDict({m: targets.branch(d) for m, d in branches.items()})
        coded = {m: settings.latents[m] for m in embedding_dims if m in settings.latents}
        self.codes = nn.ModuleDict({m: nn.Linear(embedding_dims[m], 2 * k) for m, k in coded.items()})
        self.decodes = nn.ModuleDict({m: nn.Linear(k, embedding_dims[m]) for m, k in coded.items()})

    def outputs(self, embeddings: Sequence[Tensor], present: Sequence[Tensor]) -> Outputs:
        """Embeddings (B, D) of each modality, and which clips have it, (B,) bool each."""
        given: dict[str, Tensor] = dict(zip(self.modalities, embeddings, strict=True))
        latents = {m: code(given[m]) for m, code in self.codes.items()}
        having: dict[str, Tensor] = dict(zip(self.modalities, present, strict=True))
        for modality, latent in latents.items():
            decoded = self.decodes[modality](self._draw(latent))
            given[modality] = given[modality] + decoded * having[modality][:, None]
        branches = tuple(Part(branch(given[m]), having[m]) for m, branch in self.branches.items())
        codes = tuple(Part(latent, having[m]) for m, latent in latents.items())
        raw = self.mlp(torch.cat(self.missing(list(given.values()), present), dim=1))
        return replace(self.targets.read(raw), branches=branches, latents=codes)

    def forward(self, embeddings: Sequence[Tensor], present: Sequence[Tensor]) -> Tensor:
        """Predictions (B, num_labels) alone."""
        return self.outputs(embeddings, present).predictions

    def _draw(self, latent: Tensor) -> Tensor:
        mean, log_variance = latent.chunk(2, dim=1)
        if not self.training:
            return mean
        width, device = mean.shape[1], mean.device
        noise = draw_rows(len(mean), lambda n, g: torch.randn(n, width, generator=g, device=device))
        return mean + noise * (0.5 * log_variance).exp()


class FusionRegressor(Regressor):
    """Encoders of several modalities under one head.

    ``frozen`` is enforced: the encoders take no gradient and stay in evaluation mode whatever ``train`` says. An
    encoder whose learning rate is 0 takes no gradient either; its dropout stays on, as in the authors' code.
    """

    def __init__(
        self,
        encoders: Mapping[Stream, FeatureReader],
        targets: Targets,
        settings: FusionSettings,
        frozen: bool = False,
        modality_of: Callable[[Stream], str] = str,
        lr_ratios: Mapping[Stream, float] | None = None,
    ) -> None:
        """``lr_ratios``: of single encoders, instead of ``settings.encoder_lr_ratio``; with 0 one does not learn."""
        super().__init__()
        self.modalities = tuple(encoders)
        self.encoders = nn.ModuleDict({modality: encoders[modality] for modality in self.modalities})
        dims = {name: encoder.embedding_dim for name, encoder in encoders.items()}
        self.head = ConcatHead(dims, targets, settings, modality_of)
        ratios = dict.fromkeys(encoders, settings.encoder_lr_ratio) | dict(lr_ratios or {})
        self.lr_ratios = dict.fromkeys(encoders, 0.0) if frozen else ratios
        self.frozen = frozen
        for name in self.modalities:
            if not self.lr_ratios[name]:
                self.encoder(name).requires_grad_(False)
        if frozen:
            self.encoders.eval()

    def train(self, mode: bool = True) -> "FusionRegressor":
        super().train(mode)
        if self.frozen:
            self.encoders.eval()
        return self

    def parameter_groups(self) -> list[ParameterGroup]:
        """The head, then each encoder that learns."""
        return [
            ParameterGroup(list(self.head.parameters())),
            *(
                ParameterGroup(group.parameters, self.lr_ratios[name] * group.lr_ratio)
                for name in self.modalities
                if self.lr_ratios[name]
                for group in self.encoder(name).parameter_groups()
            ),
        ]

    def embed(self, inputs: Inputs) -> list[Tensor]:
        """The embedding (B, hidden) of each modality, in the order of ``modalities``."""
        return [self.encoder(modality).encode(inputs[modality]) for modality in self.modalities]

    def outputs(self, inputs: Inputs) -> Outputs:
        return self.head.outputs(self.embed(inputs), [inputs[m].present for m in self.modalities])

    def encoder(self, modality: Stream) -> FeatureReader:
        encoder = self.encoders[modality]
        assert isinstance(encoder, FeatureReader)
        return encoder

    def encoder_of(self, modality: Stream) -> FeatureReader | None:
        return self.encoder(modality)


class EmbeddingFusion(Regressor):
    """A fusion head over embeddings that were computed beforehand and come as sequences of one step."""

    def __init__(self, modalities: Sequence[Stream], head: ConcatHead) -> None:
        super().__init__()
        self.modalities = tuple(modalities)
        self.head = head

    def outputs(self, inputs: Inputs) -> Outputs:
        embeddings = [inputs[m].pad().groups[0].values.squeeze(1) for m in self.modalities]
        return self.head.outputs(embeddings, [inputs[m].present for m in self.modalities])


def kept_modalities(present: Tensor, dropout: float) -> Tensor:
    """(B, M) bool, as ``present`` is: each modality is kept with 1 - ``dropout``, and one of those present always."""
    num_clips, num_modalities = present.shape

    def draw(n: int, generator: torch.Generator | None) -> Tensor:
        return torch.rand(n, num_modalities, generator=generator, device=present.device)

    keep = draw_rows(num_clips, draw) >= dropout
    # Where all that were there fell, one of them at random comes back.
    lucky = draw_rows(num_clips, draw).masked_fill(~present, -1.0).argmax(dim=1, keepdim=True)
    fallen = ~(keep & present).any(dim=1, keepdim=True)
    return keep.scatter(1, lucky, keep.gather(1, lucky) | fallen)
