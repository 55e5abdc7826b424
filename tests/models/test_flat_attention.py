import numpy as np
import pytest
import torch

from emi_ray.models.flat_attention import FlatSteps, attend
from emi_ray.models.pooling import AttentionPooling

LENGTHS = np.array([40, 0, 1, 17, 90])


def random_steps(dtype):
    torch.manual_seed(0)
    values = (torch.randn(200, 8) * 2).to(dtype)
    return FlatSteps(values, np.cumsum(LENGTHS) - LENGTHS, LENGTHS)


def padded_batch(steps):
    longest = int(steps.lengths.max())
    values, mask = torch.zeros(len(LENGTHS), longest, 8), torch.zeros(len(LENGTHS), longest, dtype=torch.bool)
    for clip, (start, length) in enumerate(zip(steps.starts, steps.lengths, strict=True)):
        values[clip, :length] = steps.values[start : start + length].float()
        mask[clip, :length] = True
    return values, mask


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_flat_pooling_and_its_gradient_equal_those_of_padded_pooling(dtype):
    steps = random_steps(dtype)
    pooling = AttentionPooling(8)
    weight = torch.randn(8, requires_grad=True)
    with torch.no_grad():
        pooling.scorer.weight.copy_(weight[None])
    towards = torch.randn(len(LENGTHS), 8)
    expected, found = pooling(*padded_batch(steps)), attend(steps, weight)
    torch.testing.assert_close(found, expected)
    (expected * towards).sum().backward()
    (found * towards).sum().backward()
    torch.testing.assert_close(weight.grad, pooling.scorer.weight.grad.squeeze(0), atol=1e-4, rtol=1e-4)


def test_large_scores_neither_overflow_nor_vanish():
    steps = FlatSteps(torch.full((60, 8), 100.0), np.array([0]), np.array([60]))
    torch.testing.assert_close(attend(steps, torch.full((8,), 50.0)), torch.full((1, 8), 100.0))
