import torch
from torch.nn import functional as F

from emi_ray.models.build import build_model
from emi_ray.models.sequences import PaddedGroup, padded
from emi_ray.recipe import load_recipe

DIMS = {"text": 8, "audio": 5, "vision": 6}


def build(*overrides):
    torch.manual_seed(0)
    return build_model(load_recipe("first-place", ["fusion.hidden=16", *overrides]), DIMS, 6).eval()


def inputs(lengths=(4, 2, 3), extra=0):
    torch.manual_seed(1)
    result = {}
    for modality, dim in DIMS.items():
        steps = max(lengths) if modality != "text" else 1
        mask = torch.arange(steps + extra) < torch.tensor(lengths)[:, None].clamp(max=steps)
        values = torch.cat(
            [torch.randn(len(lengths), steps, dim), torch.full((len(lengths), extra, dim), 9.0)], 1
        )
        result[modality] = padded(PaddedGroup(values, mask), present=mask.any(dim=1))
    return result


def test_padding_never_changes_what_text_finds():
    model = build()
    torch.testing.assert_close(model(inputs(extra=5)), model(inputs()))


def test_attention_is_the_papers_written_out_for_one_head():
    attention = build("fusion.heads=1").attentions["audio"]
    text, given = torch.randn(1, 8), inputs((4,))["audio"]
    steps = given.pad().groups[0].values[0]
    query, key = attention.query(text), attention.key(steps)
    shares = F.softmax(query @ key.T / 16**0.5, dim=1)
    torch.testing.assert_close(attention(text, given), attention.out(shares @ attention.value(steps)))


def test_a_missing_modality_is_its_learned_token_whatever_lies_there():
    model = build()
    given = inputs((4, 0, 3))
    predictions = model(given)
    assert torch.isfinite(predictions).all()
    given["audio"].pad().groups[0].values[1] = 77.0
    torch.testing.assert_close(model(given), predictions)
    with torch.no_grad():
        model.missing.tokens[1].add_(1.0)
    assert not torch.allclose(model(given)[1], predictions[1])
    torch.testing.assert_close(model(given)[0], predictions[0])


def test_steps_beyond_the_limit_are_not_looked_at():
    model = build("encoders.audio.max_steps=2")
    given = inputs((4, 4, 4))
    before = model(given)
    given["audio"].pad().groups[0].values[:, 2:] += 5.0
    torch.testing.assert_close(model(given), before)


def test_groups_of_a_batch_come_back_in_the_order_of_the_batch():
    model, given = build(), inputs()
    (group,) = given["audio"].pad().groups
    parts = [PaddedGroup(group.values[rows], group.mask[rows]) for rows in ([1, 2], [0])]
    order = torch.tensor([2, 0, 1])
    shuffled = {**given, "audio": padded(*parts, present=given["audio"].present, order=order)}
    torch.testing.assert_close(model(shuffled), model(given))
