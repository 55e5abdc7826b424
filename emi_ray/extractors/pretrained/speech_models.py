"""Parts of speech models that ``transformers`` does not have. Imported only when a model is built."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import Wav2Vec2Model
from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2PreTrainedModel


class RegressionHead(nn.Module):
    """Linear → tanh → linear, with one output per label of the checkpoint."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (…, hidden_size) to (…, num_labels)."""
        return self.out_proj(torch.tanh(self.dense(hidden)))


class EmotionModel(Wav2Vec2PreTrainedModel):
    """wav2vec 2.0 with a regression head, with the parameter names of audeering's checkpoint.

    Wagner et al., "Dawn of the transformer era in speech emotion recognition", arXiv 2203.07378.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.wav2vec2 = Wav2Vec2Model(config)
        self.classifier = RegressionHead(config)
        self.post_init()

    def forward(self, **inputs: Any) -> Any:
        """Return the backbone's output.

        Apply ``classifier`` to its steps, or to their mean for one value per clip.
        """
        return self.wav2vec2(**inputs)


class ClipGroupNorm(nn.Module):
    """The group norm of a first convolution, one group per channel, with statistics of the whole clip.

    ``nn.GroupNorm`` computes mean and variance over its input, which may include padding or only a window of the
    clip. Here they are computed in advance from the whole clip (:meth:`statistics`) and set in ``clips``, one entry
    per row of the batch, so that neither padding nor windows change a feature.
    """

    def __init__(self, conv: nn.Conv1d, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm
        self.clips: Sequence[tuple[torch.Tensor, torch.Tensor]] = ()
        self._stride, self._kernel = conv.stride[0], conv.kernel_size[0]
        self._taps = conv.weight[:, 0].double()
        self._bias = 0.0 if conv.bias is None else conv.bias.double()

    def statistics(self, samples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and reciprocal standard deviation (channels,) of the convolution of a clip, without computing
        it.

        The convolution is linear in its patches, so E[Wp] = W E[p] and Var[Wp] = diag(W Cov[p] Wᵀ).

        Args:
            samples: (num_samples,).
        """
        # In float64, because the covariance is a small difference of large numbers.
        patches = samples.double().unfold(0, self._kernel, self._stride)
        centre = patches.mean(0)
        covariance = patches.T @ patches / len(patches) - torch.outer(centre, centre)
        variance = ((self._taps @ covariance) * self._taps).sum(1).clamp_min(0)
        mean = self._taps @ centre + self._bias
        return mean.float(), (variance + self.norm.eps).rsqrt().float()

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Normalise (rows, channels, time) with the statistics of each row's clip."""
        mean, scale = (torch.stack(parts) for parts in zip(*self.clips, strict=True))
        weight = self.norm.weight.float() * scale
        # Normalisation and affine map are combined, so that the large activations are passed over only once.
        bias = self.norm.bias.float() - mean * weight
        return torch.addcmul(bias[..., None].to(hidden.dtype), hidden, weight[..., None].to(hidden.dtype))


def use_clip_statistics(model: nn.Module) -> ClipGroupNorm | None:
    """Replace the group norm of the first convolution by a :class:`ClipGroupNorm`; returns None if there is no
    group norm.
    """
    first = model.get_submodule("feature_extractor.conv_layers.0")
    norm = getattr(first, "layer_norm", None)
    if not isinstance(norm, nn.GroupNorm):
        return None
    first.layer_norm = ClipGroupNorm(first.get_submodule("conv"), norm)  # type: ignore[arg-type]
    return first.layer_norm
