import torch
from torch.nn import functional as F

from emi_ray.models.build import build_model
from emi_ray.models.fusion import ConcatHead, EmbeddingFusion, MissingModalities
from emi_ray.models.outputs import Targets
from emi_ray.models.sequences import PaddedGroup, padded
from emi_ray.recipe.loading import load_recipe
from emi_ray.recipe.sections import FusionSettings

EVERYONE = torch.ones(64, dtype=torch.bool)
DIMS = {"text": 8, "audio": 5, "vision": 6, "motion": 3}


def inputs(num_clips=4):
    torch.manual_seed(1)
    mask = torch.ones(num_clips, 3, dtype=torch.bool)
    present = torch.ones(num_clips, dtype=torch.bool)
    return {
        modality: padded(PaddedGroup(torch.randn(num_clips, 3, dim), mask), present=present)
        for modality, dim in DIMS.items()
    }


def test_the_fusion_head_is_the_papers():
    head = ConcatHead({"text": 2, "audio": 3}, Targets(6), FusionSettings(hidden=4)).eval()
    first, second = torch.randn(5, 2), torch.randn(5, 3)
    norm, hidden, last = head.mlp[0], head.mlp[2], head.mlp[5]
    x = F.layer_norm(torch.cat([first, second], 1), (5,), norm.weight, norm.bias)
    x = F.gelu(x @ hidden.weight.T + hidden.bias) @ last.weight.T + last.bias
    torch.testing.assert_close(head([first, second], [EVERYONE[:5]] * 2), x)


def test_modality_dropout_always_keeps_one_and_scales_the_survivors():
    torch.manual_seed(0)
    missing = MissingModalities(dict.fromkeys("abc", 2), FusionSettings(modality_dropout=0.3)).train()
    everyone = torch.ones(200_000, dtype=torch.bool)
    dropped = torch.stack(missing([torch.ones(200_000, 2)] * 3, [everyone] * 3), dim=1)[:, :, 0]
    kept = dropped > 0
    assert kept.any(dim=1).all()
    torch.testing.assert_close(dropped[kept], torch.full((int(kept.sum()),), 1 / 0.7))
    # 0.7, and a third of the clips that lost all three
    torch.testing.assert_close(
        kept.float().mean(dim=0), torch.full((3,), 0.7 + 0.027 / 3), atol=0.005, rtol=0
    )


def test_encoders_of_one_modality_are_dropped_together():
    streams = {"text": 2, "face": 2, "frame": 2}
    modality_of = {"text": "text", "face": "vision", "frame": "vision"}.__getitem__
    missing = MissingModalities(streams, FusionSettings(modality_dropout=0.5), modality_of).train()
    everyone = torch.ones(2000, dtype=torch.bool)
    text, face, frame = missing([torch.ones(2000, 2)] * 3, [everyone] * 3)
    assert torch.equal(face, frame)
    assert ((text > 0) | (face > 0)).all()
    assert 0.5 < (face > 0).float().mean() < 0.75


def test_modality_dropout_is_off_in_evaluation():
    head = ConcatHead({"text": 2, "audio": 2}, Targets(1), FusionSettings(modality_dropout=0.9)).eval()
    parts = [torch.randn(64, 2), torch.randn(64, 2)]
    present = [EVERYONE] * 2
    torch.testing.assert_close(head(parts, present), head(parts, present), rtol=0, atol=0)


def test_every_encoder_has_a_parameter_group_at_its_own_rate():
    model = build_model(load_recipe("f2"), DIMS, 6)
    groups = model.parameter_groups()
    assert [group.lr_ratio for group in groups] == [1.0, 0.05, 0.05, 0.05, 0.05]
    grouped = {id(p) for group in groups for p in group.parameters}
    assert grouped == {id(p) for p in model.parameters()}


def test_frozen_encoders_take_no_gradient_and_stay_in_evaluation_mode():
    recipe = load_recipe("f2").model_copy(update={"stages": "frozen"})
    model = build_model(recipe, DIMS, 6).train()
    assert model.head.training
    assert not any(module.training for module in model.encoders.modules())
    model(inputs()).sum().backward()
    assert all(p.grad is None for p in model.encoders.parameters())
    assert all(p.grad is not None for p in model.head.parameters())


def test_fusion_over_ready_embeddings_equals_fusion_over_features():
    model = build_model(load_recipe("f2"), DIMS, 6).eval()
    given = inputs()
    ready = {}
    for modality, embedding in zip(model.modalities, model.embed(given), strict=True):
        mask = torch.ones(len(embedding), 1, dtype=torch.bool)
        ready[modality] = padded(PaddedGroup(embedding[:, None], mask), present=mask[:, 0])
    head = EmbeddingFusion(model.modalities, model.head).eval()
    torch.testing.assert_close(head(ready), model(given))


def test_the_paper_s_fusion_has_the_paper_s_width():
    model = build_model(load_recipe("f2"), {"text": 768, "audio": 1024, "vision": 768, "motion": 23}, 6)
    assert model.head.mlp[0].normalized_shape == (3 * 384 + 128,)
