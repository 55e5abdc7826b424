import pytest
import torch

from emi_ray.models.fusion import MissingModalities, kept_modalities
from emi_ray.recipe.sections import FusionSettings

EMBEDDINGS = [torch.ones(3, 2), torch.full((3, 4), 2.0)]
PRESENT = [torch.tensor([True, True, False]), torch.tensor([True, False, True])]


def build(kind, dropout=0.0):
    torch.manual_seed(0)
    return MissingModalities(
        {"text": 2, "audio": 4}, FusionSettings(missing=kind, modality_dropout=dropout)
    ).train()


def test_zero_leaves_to_the_encoder_what_a_missing_modality_is():
    for given, result in zip(EMBEDDINGS, build("zero")(EMBEDDINGS, PRESENT), strict=True):
        torch.testing.assert_close(result, given)


def test_a_mask_zeroes_what_is_missing_and_says_so():
    first, second, flags = build("mask")(EMBEDDINGS, PRESENT)
    assert first[2].eq(0).all()
    assert second[1].eq(0).all()
    torch.testing.assert_close(flags, torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]]))


def test_a_token_stands_for_what_is_missing_and_learns():
    missing = build("token")
    first, second = missing(EMBEDDINGS, PRESENT)
    torch.testing.assert_close(first[2], missing.tokens[0])
    torch.testing.assert_close(second[[0, 2]], EMBEDDINGS[1][[0, 2]])
    second.sum().backward()
    torch.testing.assert_close(missing.tokens[1].grad, torch.ones(4))


def test_dropped_modalities_are_told_as_missing_and_survivors_keep_their_size():
    missing = build("mask", dropout=0.5)
    everyone = [torch.ones(1000, dtype=torch.bool)] * 2
    first, _, flags = missing([torch.ones(1000, 2), torch.ones(1000, 4)], everyone)
    torch.testing.assert_close(first[:, 0], flags[:, 0])
    assert 0.5 < flags[:, 0].mean() < 0.75
    assert flags.any(dim=1).all()


@pytest.mark.parametrize("kind", ["zero", "token", "mask"])
def test_modality_dropout_keeps_one_of_those_that_a_clip_has(kind):
    missing = build(kind, dropout=0.9)
    only_second = [torch.zeros(2000, dtype=torch.bool), torch.ones(2000, dtype=torch.bool)]
    second = missing([torch.ones(2000, 2), torch.full((2000, 4), 2.0)], only_second)[1]
    expected = 2.0 / 0.1 if kind == "zero" else 2.0
    torch.testing.assert_close(second, torch.full((2000, 4), expected))


def test_of_several_that_a_clip_has_each_is_kept_equally_often():
    present = torch.tensor([True, True, False]).repeat(20_000, 1)
    kept = kept_modalities(present, 0.9) & present
    assert kept.any(dim=1).all()
    torch.testing.assert_close(
        kept[:, :2].float().mean(dim=0), torch.full((2,), 0.1 + 0.405), atol=0.01, rtol=0
    )
