"""Late fusion: a weighted sum of the predictions of single modalities, with separate weights for each label."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from emi_ray.models.encoders import FeatureReader
from emi_ray.models.fusion import Regressor, UnimodalRegressor
from emi_ray.models.outputs import Outputs
from emi_ray.models.sequences import Inputs
from emi_ray.schema import EncoderName


class LateFusionRegressor(Regressor):
    """Mean over the members of each modality → weighted sum over modalities, with weights for each label.

    A modality that a clip lacks is replaced by its mean prediction. Since predictions are centred on that mean, the
    missing modality contributes nothing to the sum.
    """

    def __init__(self, members: Mapping[EncoderName, Sequence[UnimodalRegressor]], num_labels: int) -> None:
        super().__init__()
        self.modalities = tuple(members)
        self.members = nn.ModuleDict({m: nn.ModuleList(members[m]) for m in self.modalities})
        self.centre: Tensor
        self.weight: Tensor
        self.bias: Tensor
        self.register_buffer("centre", torch.zeros(len(self.modalities), num_labels))
        self.register_buffer("weight", torch.zeros(len(self.modalities), num_labels))
        self.register_buffer("bias", torch.zeros(num_labels))

    def set_weights(self, weight: Tensor, centre: Tensor, bias: Tensor) -> None:
        """Set the weights (M, L) and mean predictions (M, L) of the M modalities, and the mean target (L,)."""
        self.weight.copy_(weight)
        self.centre.copy_(centre)
        self.bias.copy_(bias)

    def outputs(self, inputs: Inputs) -> Outputs:
        total = self.bias
        for index, modality in enumerate(self.modalities):
            # (members, B, L)
            parts = torch.stack([member(inputs) for member in self.regressors(modality)])
            moved = (parts.mean(dim=0) - self.centre[index]) * inputs[modality].present[:, None]
            total = total + self.weight[index] * moved
        return Outputs(total)

    def regressors(self, modality: EncoderName) -> list[UnimodalRegressor]:
        """Return the members of one modality."""
        members = self.members[modality]
        assert isinstance(members, nn.ModuleList)
        return [member for member in members if isinstance(member, UnimodalRegressor)]

    # The members are trained before and have statistics already, so nothing has to be prepared.
    def readers(self) -> dict[EncoderName, FeatureReader]:
        return {}
