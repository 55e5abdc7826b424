import numpy as np
import pytest
import torch
from torch.nn import functional as F

from emi_ray.models.build import build_model
from emi_ray.models.sequences import PaddedGroup, padded
from emi_ray.recipe.loading import load_recipe
from emi_ray.schema import EMOTION_LABELS
from emi_ray.training.data.batching import Batcher
from emi_ray.training.data.clip_data import from_arrays

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


@pytest.mark.parametrize("kind", ["zero", "token", "mask"])
@pytest.mark.parametrize("absent", DIMS)
def test_what_a_clip_lacks_contributes_nothing_whatever_other_clips_have(kind, absent):
    random = np.random.default_rng(0)

    def outputs(other):
        clips = {
            modality: [
                random_steps if (place, modality) != (1, absent) else None
                for place, random_steps in enumerate(fixed[modality])
            ]
            for modality in DIMS
        }
        clips[absent] = [other if place != 1 else None for place in range(3)]
        data = from_arrays(clips, np.zeros((3, 6)), ["train"] * 3, EMOTION_LABELS)
        return model.outputs(Batcher(data, list(DIMS), torch.device("cpu")).inputs(np.array([1, 0, 2])))

    fixed = {
        m: [random.normal(size=(1 if m == "text" else 4, d)).astype(np.float32)] * 3 for m, d in DIMS.items()
    }
    model = build(f"fusion.missing={kind}", "objective.auxiliary=0.5")
    steps = fixed[absent][0]
    first, second = outputs(steps), outputs(steps + 5.0)
    torch.testing.assert_close(first.predictions[0], second.predictions[0])
    assert not torch.allclose(first.predictions[1], second.predictions[1])
    branch = first.branches[list(DIMS).index(absent)]
    assert branch.present.tolist() == [False, True, True]


@pytest.mark.parametrize("kind", ["zero", "token", "mask"])
def test_text_that_is_dropped_or_missing_does_not_ask_either(kind):
    model = build(f"fusion.missing={kind}", "fusion.modality_dropout=0.5", "fusion.dropout=0").train()
    first, second = inputs((4,)), inputs((4,))
    second["text"].pad().groups[0].values[:] += 3.0
    differs = []
    for seed in range(40):
        torch.manual_seed(seed)
        one = model(first)
        torch.manual_seed(seed)
        differs.append(not torch.allclose(one, model(second)))
    assert 0.2 < np.mean(differs) < 0.8  # where the text was dropped, nothing of it is left
    without = padded(
        PaddedGroup(torch.zeros(1, 1, 8), torch.zeros(1, 1, dtype=torch.bool)), present=torch.tensor([False])
    )
    asked = {}
    model.eval()
    for name, attention in model.attentions.items():
        attention.query.register_forward_pre_hook(
            lambda _, given, name=name: asked.__setitem__(name, given[0])
        )
    model({**first, "text": without})
    expected = model.missing.tokens[0] if kind == "token" else torch.zeros(8)
    for query in asked.values():
        torch.testing.assert_close(query[0], expected)


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
