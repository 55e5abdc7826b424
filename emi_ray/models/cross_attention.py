"""Text-anchored fusion: cross-attention from the text vector to the steps of the other modalities.

Follows arXiv 2603.14976. Q = LayerNorm(Linear(text)), K = LayerNorm(Linear(steps)), V = Linear(steps). The text
vector and the outputs of all attentions are concatenated: → Linear → GELU → Dropout → Linear. A modality that is
missing or dropped is replaced by a learned token; if it is the text, the token is the query. The steps are features,
or the hidden states of a speech model that is fine-tuned.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emi_ray.models.dropout import Dropout
from emi_ray.models.encoders import FeatureReader
from emi_ray.models.fusion import MissingModalities, Regressor
from emi_ray.models.outputs import Outputs, ParameterGroup, Part, Targets
from emi_ray.models.sequences import Inputs, PaddedGroup, Sequences, with_one_step
from emi_ray.models.speech_backbone import SpeechBackbone
from emi_ray.recipe.sections import EncoderSettings, FusionSettings
from emi_ray.schema import EncoderName


class StepAttention(FeatureReader):
    """Multi-head attention with one query for each clip over the steps of one modality."""

    def __init__(
        self, feature_dim: int, query_dim: int, settings: EncoderSettings, fusion: FusionSettings
    ) -> None:
        super().__init__(feature_dim, settings.standardise)
        self.num_heads, self.dropout, self.max_steps = fusion.heads, fusion.dropout, settings.max_steps
        self.query = nn.Sequential(nn.Linear(query_dim, fusion.hidden), nn.LayerNorm(fusion.hidden))
        self.key = nn.Sequential(nn.Linear(feature_dim, fusion.hidden), nn.LayerNorm(fusion.hidden))
        self.value = nn.Linear(feature_dim, fusion.hidden)
        self.out = nn.Linear(fusion.hidden, fusion.hidden)

    def forward(self, text: Tensor, sequences: Sequences) -> Tensor:
        """Attend from text vectors (B, Q) to the steps of a batch; returns (B, hidden), zeros without steps."""
        padding = sequences.pad()
        query = self.query(text)
        pairs = zip(padding.groups, padding.rows(), strict=True)
        # The query (B, hidden) is in the order of the batch, but the steps are in groups of similar length.
        found = padding.in_batch_order([self._attend(query[rows], group) for group, rows in pairs])
        return found * sequences.present[:, None]

    def _attend(self, query: Tensor, group: PaddedGroup) -> Tensor:
        values, mask = group.values, group.mask
        if self.max_steps is not None:
            values, mask = values[:, : self.max_steps], mask[:, : self.max_steps]
        if self.standardise:
            values = (values - self.feature_mean) * self.feature_scale
        mask = with_one_step(mask)  # softmax over no step would be NaN; forward() sets these clips to zero
        num_clips = len(mask)
        # (b, heads, steps, hidden / heads); the query has one step.
        q, k, v = (
            x.view(num_clips, -1, self.num_heads, query.shape[1] // self.num_heads).transpose(1, 2)
            for x in (query, self.key(values), self.value(values))
        )
        dropout = self.dropout if self.training else 0.0
        # Its dropout draws for this worker's clips only, so results depend on the number of workers.
        found = F.scaled_dot_product_attention(q, k, v, mask[:, None, None, :], dropout)
        # (b, heads, 1, hidden / heads) to (b, hidden).
        result: Tensor = self.out(found.transpose(1, 2).reshape(num_clips, -1))
        return result


class TextAnchoredRegressor(Regressor):
    """A text encoder, one attention for each other modality, and a head over all of them."""

    def __init__(
        self,
        anchor: EncoderName,
        text: FeatureReader,
        speech: Mapping[EncoderName, SpeechBackbone],
        feature_dims: Mapping[EncoderName, int],
        settings: Mapping[EncoderName, EncoderSettings],
        fusion: FusionSettings,
        targets: Targets,
        modality_of: Callable[[EncoderName], str] = str,
    ) -> None:
        """Create the model.

        Args:
            anchor: name of the text encoder.
            text: the text encoder.
            speech: fine-tuned speech models by encoder; the other encoders read features.
            feature_dims: dimensions of each step of the features, by encoder.
            settings: settings of all encoders, in the order of the model's inputs.
            fusion: settings of the fusion.
            targets: the outputs that the head needs.
            modality_of: returns the modality of an encoder.
        """
        super().__init__()
        self.modalities = tuple(settings)
        self.anchor = anchor
        self.text = text
        self.speech = nn.ModuleDict(dict(speech.items()))
        self.targets = targets
        self.encoder_lr_ratio = fusion.encoder_lr_ratio
        others = [m for m in self.modalities if m != anchor]
        width = text.embedding_dim
        step_dims = {
            m: speech[m].backbone.config.hidden_size if m in speech else feature_dims[m] for m in others
        }
        self.attentions = nn.ModuleDict(
            {m: StepAttention(step_dims[m], width, settings[m], fusion) for m in others}
        )
        dims: dict[EncoderName, int] = {m: width if m == anchor else fusion.hidden for m in self.modalities}
        self.missing = MissingModalities(dims, fusion, modality_of)
        self.mlp = nn.Sequential(
            nn.Linear(sum(dims.values()) + self.missing.num_flags, fusion.hidden),
            nn.GELU(),
            Dropout(fusion.dropout),
            targets.last_layer(fusion.hidden),
        )
        branches = dims if targets.branches else {}
        self.branches = nn.ModuleDict({m: targets.branch(d) for m, d in branches.items()})

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return all parameters except the encoders', then the encoders' at ``fusion.encoder_lr_ratio``."""
        own = [p for name, p in self.named_parameters() if not name.startswith(("text.", "speech."))]
        groups = [g for encoder in (self.text, *self._speech.values()) for g in encoder.parameter_groups()]
        ratio = self.encoder_lr_ratio
        encoders = [ParameterGroup(g.parameters, ratio * g.lr_ratio) for g in groups if g.parameters]
        return [ParameterGroup(own), *encoders]

    def outputs(self, inputs: Inputs) -> Outputs:
        present = [inputs[m].present for m in self.modalities]
        # Drawn before the attention, because a dropped text must not be the query either.
        kept = self.missing.keep(present)
        text = self.text.encode(inputs[self.anchor])
        asking = self._query(text, inputs[self.anchor].present, kept)
        speech = {m: encoder.steps(inputs[m]) for m, encoder in self._speech.items()}
        steps = {**inputs, **speech}
        found = {m: attention(asking, steps[m]) for m, attention in self.attentions.items()}
        parts = [text if m == self.anchor else found[m] for m in self.modalities]
        branches = (
            tuple(
                Part(self.branches[m](part), having)
                for m, part, having in zip(self.modalities, parts, present, strict=True)
            )
            if len(self.branches)
            else ()
        )
        raw = self.mlp(torch.cat(self.missing(parts, present, kept), dim=1))
        return replace(self.targets.read(raw), branches=branches)

    def _query(self, text: Tensor, present: Tensor, kept: Tensor) -> Tensor:
        """Return the query vectors: the text, or its replacement (token or zeros) if it is missing or dropped."""
        index = self.modalities.index(self.anchor)
        there = kept[:, index]
        # With "zero", the embedding of a missing text stays as it is, as MissingModalities does it.
        return self.missing.stand_in(index, text, there if self.missing.kind == "zero" else there & present)

    def encoder_of(self, modality: EncoderName) -> FeatureReader | None:
        return self.text if modality == self.anchor else None

    def readers(self) -> dict[EncoderName, FeatureReader]:
        return {self.anchor: self.text, **self.attentions, **self._speech}  # type: ignore[dict-item]

    @property
    def _speech(self) -> dict[EncoderName, SpeechBackbone]:
        return dict(self.speech.items())  # type: ignore[arg-type]
