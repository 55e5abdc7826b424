import pytest
import torch
from torch.nn import functional as F

from emi_ray.models.encoders import SequenceEncoder
from emi_ray.models.sequences import PaddedGroup, padded
from emi_ray.recipe.sections import EncoderSettings


def build(feature_dim=5, **settings):
    torch.manual_seed(0)
    return SequenceEncoder(feature_dim, EncoderSettings(hidden=4, **settings)).eval()


@pytest.fixture
def batch():
    torch.manual_seed(1)
    lengths = torch.tensor([7, 2, 1, 0])
    return torch.randn(4, 7, 5) * 3 + 10, torch.arange(7) < lengths[:, None]


def test_the_text_encoder_is_the_papers(batch):
    encoder = build(type="mlp")
    vector = batch[0][:, :1]
    norm, linear, last = encoder.mlp[0], encoder.mlp[1], encoder.mlp[4]
    x = vector[:, 0] / vector[:, 0].norm(dim=1, keepdim=True)
    x = F.layer_norm(x, (5,), norm.weight, norm.bias)
    x = F.layer_norm(F.gelu(x @ linear.weight.T + linear.bias), (4,), last.weight, last.bias)
    torch.testing.assert_close(encoder(vector, torch.ones(4, 1, dtype=torch.bool)), x)


def test_standardising_before_pooling_equals_standardising_the_steps(batch):
    values, mask = batch
    for kind in ("attention", "mean", "mean_std", "last"):
        encoder, plain = build(type=kind, standardise=True), build(type=kind)
        mean, deviation = torch.rand(5) * 10, torch.rand(5) + 0.5
        encoder.set_statistics(mean, deviation)
        expected = plain((values - mean) / deviation, mask)
        torch.testing.assert_close(encoder(values, mask), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("recurrent", ["gru", "lstm"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_padding_never_changes_a_recurrent_embedding(batch, recurrent, bidirectional):
    values, mask = batch
    encoder = build(
        type="attention",
        recurrent=recurrent,
        recurrent_layers=2,
        bidirectional=bidirectional,
        standardise=True,
    )
    alone = encoder(values[1:2, :2], mask[1:2, :2])
    torch.testing.assert_close(encoder(values, mask)[1:2], alone)


def test_a_missing_clip_is_encoded_as_a_zero_vector(batch):
    values, mask = batch
    for kind in ("attention", "mlp", "mean"):
        encoder = build(type=kind, standardise=True)
        encoder.set_statistics(torch.full((5,), 10.0), torch.full((5,), 3.0))
        torch.testing.assert_close(encoder(values, mask)[3:], encoder.mlp(torch.zeros(1, 5)))


def test_a_feature_that_never_varies_is_not_blown_up():
    encoder = build(type="mean", standardise=True)
    encoder.set_statistics(torch.zeros(5), torch.tensor([0.0, 1.0, 2.0, 4.0, 0.0]))
    assert encoder.feature_scale.tolist() == [1.0, 1.0, 0.5, 0.25, 1.0]


def test_groups_of_a_batch_come_back_in_the_order_of_the_batch(batch):
    values, mask = batch
    encoder = build(type="attention")
    groups = (PaddedGroup(values[2:], mask[2:]), PaddedGroup(values[:2], mask[:2]))
    sequences = padded(*groups, present=mask.any(dim=1), order=torch.tensor([2, 3, 0, 1]))
    torch.testing.assert_close(encoder.encode(sequences), encoder(values, mask))
