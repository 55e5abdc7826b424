"""Fine-tuning of a pretrained speech model, from the waveform to hidden states, one for each 20 ms."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from emi_ray.models.backbone import ABOVE_LAYERS, Backbone
from emi_ray.models.sequences import PaddedGroup, Sequences, padded
from emi_ray.recipe.sections import SPEECH_STEPS, EncoderSettings


class SpeechBackbone(Backbone):
    """Waveform, ``feature_dim`` samples per step → convolutions → transformer.

    The convolutions keep their pretrained weights, as recommended by the authors of wav2vec 2.0 (arXiv 2006.11477,
    section 4.3). They run clip by clip, so that neither padding nor the other clips of a batch influence the result.
    During training, steps and channels are masked as the model's configuration says (SpecAugment).
    """

    modality = "audio"

    def __init__(self, feature_dim: int, settings: EncoderSettings) -> None:
        super().__init__(feature_dim, settings)
        self.backbone.feature_extractor.requires_grad_(False)
        config = self.backbone.config
        # The receptive field of one output step, from the last convolution back to the first.
        self._least_samples = 1
        for kernel, stride in zip(config.conv_kernel[::-1], config.conv_stride[::-1], strict=True):
            self._least_samples = (self._least_samples - 1) * stride + kernel

    def steps(self, sequences: Sequences) -> Sequences:
        """Compute the hidden states of a batch, for a fusion that attends to steps."""
        padding = sequences.pad()
        groups = [self.hidden(group) for group in padding.groups]
        return padded(*groups, present=sequences.present, order=padding.order)

    def hidden(self, group: PaddedGroup) -> PaddedGroup:
        # Clips are cut to the limit before the convolutions, because attention costs the square of the length.
        lengths = group.mask[:, : self.settings.max_steps or SPEECH_STEPS].sum(dim=1).tolist()
        # The convolutions do not learn, so their activations need not be kept.
        with torch.no_grad():
            convolved = [
                self._convolve(v[:n].reshape(-1)) for v, n in zip(group.values, lengths, strict=True)
            ]
        values = pad_sequence(convolved, batch_first=True)
        counts = torch.tensor([len(steps) for steps in convolved], device=values.device)
        # (b, T) after the convolutions; a clip without sound still has one step here.
        mask = torch.arange(values.shape[1], device=values.device) < counts[:, None]
        hidden = self._transform(values, mask)
        # Under autocast the states are bfloat16. Steps of clips without sound are masked only now.
        return PaddedGroup(hidden.float(), mask & group.mask.any(dim=1, keepdim=True))

    def _convolve(self, samples: Tensor) -> Tensor:
        """Apply the convolutions to the samples (N,) of one clip; returns (T, channels)."""
        if self.backbone.config.do_normalize and len(samples):
            # As in Wav2Vec2FeatureExtractor of transformers, including its 1e-7.
            samples = (samples - samples.mean()) / (samples.var(unbiased=False) + 1e-7).sqrt()
        # A shorter clip would make the convolutions fail.
        samples = F.pad(samples, (0, max(0, self._least_samples - len(samples))))
        convolved: Tensor = self.backbone.feature_extractor(samples[None])[0].T
        return convolved

    def _transform(self, values: Tensor, mask: Tensor) -> Tensor:
        """Apply projection, SpecAugment and transformer to the output of the convolutions.

        The forward method of the model cannot be used, because it would repeat the convolutions on padded input.
        """
        projected = self.backbone.feature_projection(values)
        # wav2vec 2.0 and WavLM return the normalised features as well, HuBERT does not.
        projected = projected[0] if isinstance(projected, tuple) else projected
        # transformers raises an error if a mask is longer than the sequence.
        if values.shape[1] > self.backbone.config.mask_time_length:  # SpecAugment, in training
            projected = self.backbone._mask_hidden_states(projected, attention_mask=mask)
        hidden: Tensor = self.backbone.encoder(projected, attention_mask=mask).last_hidden_state
        return hidden

    def _depth(self, parameter: str) -> int:
        depth = super()._depth(parameter)
        config = self.backbone.config
        # Large models apply the layer norm after the transformer layers, the others before them.
        is_last = parameter.startswith("encoder.layer_norm.") and getattr(
            config, "do_stable_layer_norm", False
        )
        # The projection and the positional convolution have no layer number, but lie below the first layer.
        return -1 if depth == ABOVE_LAYERS and not is_last else depth
