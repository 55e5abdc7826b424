import pytest
import torch

from emi_ray.models.pooling import POOLINGS, AttentionPooling, LastPooling, MeanPooling, MeanStdPooling

VALUES = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [9.0, 9.0]], [[5.0, 7.0], [9.0, 9.0], [9.0, 9.0]]])
MASK = torch.tensor([[True, True, False], [True, False, False]])


@pytest.fixture(params=sorted(POOLINGS))
def pooling(request):
    torch.manual_seed(0)
    return POOLINGS[request.param](2)


def test_padding_never_changes_the_pooled_vector(pooling):
    longer = torch.cat([VALUES, torch.full((2, 4, 2), 1e4)], dim=1)
    mask = torch.cat([MASK, torch.zeros(2, 4, dtype=torch.bool)], dim=1)
    torch.testing.assert_close(pooling(longer, mask), pooling(VALUES, MASK))
    torch.testing.assert_close(pooling(VALUES[1:, :1], MASK[1:, :1]), pooling(VALUES, MASK)[1:])


def test_a_clip_whose_steps_are_all_masked_gives_zeros_and_a_finite_gradient(pooling):
    values = VALUES.clone().requires_grad_()
    pooled = pooling(values, torch.tensor([[True, True, False], [False, False, False]]))
    assert (pooled[1] == 0).all()
    pooled.sum().backward()
    assert torch.isfinite(values.grad).all()
    assert (values.grad[1] == 0).all()


def test_poolings_have_the_values_computed_by_hand():
    torch.testing.assert_close(MeanPooling(2)(VALUES, MASK), torch.tensor([[2.0, 4.0], [5.0, 7.0]]))
    expected = torch.tensor([[2.0, 4.0, 1.0, 2.0], [5.0, 7.0, 0.0, 0.0]])
    torch.testing.assert_close(MeanStdPooling(2)(VALUES, MASK), expected)
    torch.testing.assert_close(LastPooling(2)(VALUES, MASK), torch.tensor([[3.0, 6.0], [5.0, 7.0]]))


def test_attention_weighs_steps_by_the_softmax_of_their_scores():
    pooling = AttentionPooling(2)
    with torch.no_grad():
        pooling.scorer.weight.copy_(torch.tensor([[0.5, -0.1]]))
    weights = torch.softmax(torch.tensor([0.5 * 1 - 0.1 * 2, 0.5 * 3 - 0.1 * 6]), dim=0)
    expected = weights[0] * VALUES[0, 0] + weights[1] * VALUES[0, 1]
    torch.testing.assert_close(pooling(VALUES, MASK)[0], expected)
