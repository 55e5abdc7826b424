from dataclasses import replace

import numpy as np
import pytest
import torch
from planted import planted_data

from emi_ray.errors import UserError
from emi_ray.models.build import build_model
from emi_ray.recipe.loading import load_recipe
from emi_ray.training.data.split_rows import Rows, split_rows
from emi_ray.training.stages.late_fusion import cut_folds, set_late_weights
from emi_ray.training.stages.runner import Hooks
from emi_ray.training.stages.train_recipe import train_recipe

SMALL = [f"encoders.{m}.hidden=8" for m in ("text", "audio", "vision", "motion")] + ["fusion.folds=3"]
DIMS = {"text": 4, "audio": 4, "vision": 4, "motion": 4}


def train(data, *overrides, hooks=None):
    recipe = load_recipe("late-fusion", [*SMALL, "training.lr=3e-3", *overrides])
    return train_recipe(recipe, data, split_rows(data), seed=2, hooks=hooks)


def test_folds_hold_every_training_clip_out_once():
    folds = cut_folds(Rows(np.arange(10, 27), np.arange(3)), planted_data(num_train=20), 4, seed=1)
    assert sorted(np.concatenate([fold.val for fold in folds])) == list(range(10, 27))
    assert all(not set(fold.train) & set(fold.val) for fold in folds)
    assert {len(fold.train) + len(fold.val) for fold in folds} == {17}


def test_folds_never_cut_through_a_person():
    data = replace(planted_data(num_train=60, num_val=4), groups=np.array([f"p{i // 5}" for i in range(64)]))
    folds = cut_folds(Rows(np.arange(60), np.arange(60, 64)), data, 4, seed=0)
    assert sorted(np.concatenate([fold.val for fold in folds])) == list(range(60))
    assert [len(fold.val) for fold in folds] == [15] * 4
    for fold in folds:
        assert not set(data.groups[fold.train]) & set(data.groups[fold.val])
    with pytest.raises(UserError, match="12 groups"):
        cut_folds(Rows(np.arange(60), np.arange(60, 64)), data, 13, seed=0)


def test_weights_follow_what_each_modality_knows_of_each_label():
    random = np.random.default_rng(0)
    targets = random.random((500, 2))
    nonsense, knows_first = random.random((500, 2)), targets.copy()
    knows_first[:, 1] = 1 - targets[:, 1]  # says the opposite of the second label
    knows_first[::7] = np.nan
    model = build_model(load_recipe("late-fusion", SMALL), DIMS, 2)
    set_late_weights(model, [knows_first, nonsense, nonsense, nonsense], targets)
    assert model.weight[0, 0] == pytest.approx(1.0, abs=0.05)
    assert model.weight[0, 1] == 0
    assert model.weight[1:, 0].max() < 0.1
    torch.testing.assert_close(model.bias, torch.from_numpy(targets.mean(axis=0)).float())


def test_late_fusion_beats_its_parts_and_leaves_scores_of_each():
    data = planted_data()
    trained = train(data, "training.epochs=20")
    assert list(trained.results) == ["text", "audio", "vision", "motion", "fusion"]
    alone = [trained.results[m].scores["val_pearson"] for m in ("text", "audio", "vision", "motion")]
    assert trained.results["fusion"].scores["val_pearson"] > max(alone)


def test_validation_clips_decide_nothing():
    data = planted_data(num_train=30, num_val=16)
    first = train(data, "training.epochs=2")
    data.targets[30:] = data.targets[30:][::-1].copy()
    second = train(data, "training.epochs=2")
    for one, other in zip(first.model.state_dict().values(), second.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_a_late_run_resumed_from_any_checkpoint_ends_as_the_undisturbed_one():
    data = planted_data(num_train=30, num_val=16)
    saved = []
    hooks = Hooks(on_checkpoint=lambda build, ended: saved.append(build()))
    whole = train(data, "training.epochs=2", hooks=hooks)
    resumed = train(data, "training.epochs=2", hooks=Hooks(resume=saved[len(saved) // 2]))
    assert resumed.results["fusion"].scores == whole.results["fusion"].scores
