"""Regressors, the models that :func:`emi_ray.training.loop.fit` trains: encoders with a head or a fusion.

A regressor reads a batch of :data:`Inputs`. ``forward`` returns predictions (B, num_labels); ``outputs`` also returns
values that only the loss needs. ``parameter_groups`` returns learning rates relative to the recipe's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from emi_ray.models.dropout import Dropout, draw_rows
from emi_ray.models.encoders import FeatureReader
from emi_ray.models.outputs import Outputs, ParameterGroup, Part, Targets
from emi_ray.models.sequences import Inputs
from emi_ray.recipe.sections import FusionSettings
from emi_ray.schema import EncoderName


class Regressor(nn.Module):
    """Base class of all models.

    Attributes:
        modalities: names of the encoders. They are modalities if the recipe has one encoder for each modality.
    """

    modalities: tuple[EncoderName, ...]

    def outputs(self, inputs: Inputs) -> Outputs:
        """Compute predictions and everything else that the loss needs for a batch."""
        raise NotImplementedError

    def forward(self, inputs: Inputs) -> Tensor:
        return self.outputs(inputs).predictions

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup([p for p in self.parameters() if p.requires_grad])]

    def encoder_of(self, modality: EncoderName) -> FeatureReader | None:
        """Return the encoder of a modality, or None if the model does not encode it as one vector."""
        return None

    def readers(self) -> dict[EncoderName, FeatureReader]:
        """Return the modules that read features, by encoder."""
        encoders = {modality: self.encoder_of(modality) for modality in self.modalities}
        return {modality: encoder for modality, encoder in encoders.items() if encoder is not None}


class UnimodalRegressor(Regressor):
    """The stage-1 model: one encoder with a head (Dropout → Linear). The fusion stage does not use the head."""

    def __init__(
        self, modality: EncoderName, encoder: FeatureReader, targets: Targets, dropout: float
    ) -> None:
        super().__init__()
        self.modalities = (modality,)
        self.encoder = encoder
        self.targets = targets
        self.head = nn.Sequential(Dropout(dropout), targets.last_layer(encoder.embedding_dim))

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return the head's parameters, then the encoder's."""
        return [ParameterGroup(list(self.head.parameters())), *self.encoder.parameter_groups()]

    def encoder_of(self, modality: EncoderName) -> FeatureReader | None:
        return self.encoder

    def outputs(self, inputs: Inputs) -> Outputs:
        raw = self.head(self.encoder.encode(inputs[self.modalities[0]]))
        return self.targets.read(raw)


class MissingModalities(nn.Module):
    """Replacement of the embeddings of missing modalities, and modality dropout during training.

    If several encoders read one modality, it is dropped from all of them or from none; otherwise the model could
    still see it. There are three ways. ``zero``: embeddings of missing modalities stay as they are; dropped ones
    are zero, and the others are multiplied by 1 / (1 - p), as in the paper. ``token``: a learned vector replaces
    missing and dropped embeddings. ``mask``: zeros replace them, and one flag for each encoder is appended to the
    embeddings.
    """

    def __init__(
        self,
        dims: Mapping[EncoderName, int],
        settings: FusionSettings,
        modality_of: Callable[[EncoderName], str] = str,
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
        """Draw which encoders are not dropped, (B, E) bool, given the presence (B,) of each encoder's input.

        Outside of training nothing is dropped.
        """
        there = torch.stack(list(present), dim=1)
        if not self.training or self.dropout == 0:
            return torch.ones_like(there)
        of_modality = [
            torch.stack([p for p, own in zip(present, self._owner, strict=True) if own == index]).any(dim=0)
            for index in range(max(self._owner) + 1)
        ]
        return kept_modalities(torch.stack(of_modality, dim=1), self.dropout)[:, self._owner]

    def stand_in(self, index: int, embedding: Tensor, there: Tensor) -> Tensor:
        """Return the embedding (B, D) of a modality, replaced by token or zeros where ``there`` (B,) is False."""
        if self.kind == "token":
            return torch.where(there[:, None], embedding, self.tokens[index])
        return embedding * there[:, None]

    def forward(
        self, embeddings: Sequence[Tensor], present: Sequence[Tensor], kept: Tensor | None = None
    ) -> list[Tensor]:
        """Replace missing and dropped embeddings, (B, D) for each encoder; with ``mask``, append the flags (B, E).

        ``present`` is (B,) bool for each encoder. ``kept`` is the result of ``keep``; by default it is drawn here.
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
    """Modality dropout → concatenate → LayerNorm → Dropout → Linear → GELU → Dropout → Linear.

    A modality with a latent code (``fusion.latents``) works like a variational autoencoder: a code is drawn from a
    normal distribution whose mean and log variance are linear in the embedding, and its linear decoding is added to
    the embedding. In evaluation mode the code is the mean.
    """

    def __init__(
        self,
        embedding_dims: Mapping[EncoderName, int],
        targets: Targets,
        settings: FusionSettings,
        modality_of: Callable[[EncoderName], str] = str,
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
        """Compute the outputs from the embeddings (B, D) of all modalities and their presence, (B,) bool each."""
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
        """Compute only the predictions, (B, num_labels)."""
        return self.outputs(embeddings, present).predictions

    def _draw(self, latent: Tensor) -> Tensor:
        mean, log_variance = latent.chunk(2, dim=1)
        if not self.training:
            return mean
        width, device = mean.shape[1], mean.device
        noise = draw_rows(len(mean), lambda n, g: torch.randn(n, width, generator=g, device=device))
        return mean + noise * (0.5 * log_variance).exp()


class FusionRegressor(Regressor):
    """Encoders of several modalities with a common head.

    With ``frozen``, the encoders get no gradient and always stay in evaluation mode. An encoder with learning rate 0
    gets no gradient either, but its dropout stays active during training, as in the authors' code.
    """

    def __init__(
        self,
        encoders: Mapping[EncoderName, FeatureReader],
        targets: Targets,
        settings: FusionSettings,
        frozen: bool = False,
        modality_of: Callable[[EncoderName], str] = str,
        lr_ratios: Mapping[EncoderName, float] | None = None,
    ) -> None:
        """Create the model; ``lr_ratios`` of single encoders override ``settings.encoder_lr_ratio``."""
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
        """Return the head's parameters, then those of each encoder that learns."""
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
        """Compute the embedding (B, hidden) of each modality, in the order of ``modalities``."""
        return [self.encoder(modality).encode(inputs[modality]) for modality in self.modalities]

    def outputs(self, inputs: Inputs) -> Outputs:
        return self.head.outputs(self.embed(inputs), [inputs[m].present for m in self.modalities])

    def encoder(self, modality: EncoderName) -> FeatureReader:
        encoder = self.encoders[modality]
        assert isinstance(encoder, FeatureReader)
        return encoder

    def encoder_of(self, modality: EncoderName) -> FeatureReader | None:
        return self.encoder(modality)


class EmbeddingFusion(Regressor):
    """A fusion head over precomputed embeddings, which are passed as sequences of one step."""

    def __init__(self, modalities: Sequence[EncoderName], head: ConcatHead) -> None:
        super().__init__()
        self.modalities = tuple(modalities)
        self.head = head

    def outputs(self, inputs: Inputs) -> Outputs:
        embeddings = [inputs[m].pad().groups[0].values.squeeze(1) for m in self.modalities]
        return self.head.outputs(embeddings, [inputs[m].present for m in self.modalities])


def kept_modalities(present: Tensor, dropout: float) -> Tensor:
    """Draw which modalities of each clip are kept, (B, M) bool.

    Each is kept with probability 1 - ``dropout``. A clip without any input would teach the model nothing, so at least
    one present modality of each clip is kept.

    Args:
        present: (B, M) bool, the modalities that each clip has.
        dropout: probability of dropping a modality.
    """
    num_clips, num_modalities = present.shape

    def draw(n: int, generator: torch.Generator | None) -> Tensor:
        return torch.rand(n, num_modalities, generator=generator, device=present.device)

    keep = draw_rows(num_clips, draw) >= dropout
    # If all present modalities of a clip were dropped, restore one of them at random.
    lucky = draw_rows(num_clips, draw).masked_fill(~present, -1.0).argmax(dim=1, keepdim=True)
    fallen = ~(keep & present).any(dim=1, keepdim=True)
    return keep.scatter(1, lucky, keep.gather(1, lucky) | fallen)
