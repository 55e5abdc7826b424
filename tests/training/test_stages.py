from dataclasses import replace

import numpy as np
import pytest
import torch
from planted import planted_data

from emi_ray.errors import UserError
from emi_ray.recipe.loading import load_recipe
from emi_ray.schema import EMOTION_LABELS, Label
from emi_ray.training.data.clip_data import from_arrays
from emi_ray.training.data.split_rows import split_rows, with_inner_part
from emi_ray.training.stages.runner import Hooks, feature_statistics
from emi_ray.training.stages.train_recipe import train_recipe

SMALL = [f"encoders.{m}.hidden=16" for m in ("text", "audio", "vision", "motion")] + ["fusion.hidden=16"]


@pytest.fixture(scope="module")
def data():
    return planted_data()


def train(data, *overrides, hooks=None, stages="staged"):
    recipe = load_recipe(
        "f2", [*SMALL, "training.epochs=3", "training.lr=2e-3", f"stages={stages}", *overrides]
    )
    return train_recipe(recipe, data, split_rows(data), seed=3, hooks=hooks)


def weights_of(trained):
    return trained.model.state_dict()


def test_stages_follow_each_other_and_fusion_beats_each_alone(data):
    trained = train(data, "training.epochs=20", "training.lr=3e-3")
    assert list(trained.results) == ["text", "audio", "vision", "motion", "fusion"]
    alone = [trained.results[m].scores["val_pearson"] for m in ("text", "audio", "vision", "motion")]
    assert trained.results["fusion"].scores["val_pearson"] > max(alone)
    assert min(alone) > 0.05


def test_fusion_changes_every_encoder_at_its_lower_rate(data):
    trained = train(data, "fusion.epochs=1")
    for modality in ("text", "audio", "vision", "motion"):
        before = trained.results[modality].weights
        after = trained.model.encoder(modality).state_dict()
        assert not torch.equal(before["encoder.mlp.1.weight"], after["mlp.1.weight"])


def test_frozen_encoders_end_as_they_began_and_only_the_head_learns(data):
    trained = train(data, stages="frozen")
    for modality in ("text", "audio", "vision", "motion"):
        before = trained.results[modality].weights
        for name, tensor in trained.model.encoder(modality).state_dict().items():
            assert torch.equal(before[f"encoder.{name}"], tensor)
    assert (
        trained.results["fusion"].history[0]["train_loss"]
        > trained.results["fusion"].history[-1]["train_loss"]
    )


def test_joint_training_has_one_stage(data):
    own_stage = [f"encoders.{name}.missing=skip" for name in ("text", "motion")]
    trained = train(data, *own_stage, stages="joint")
    assert list(trained.results) == ["fusion"]


def test_a_run_resumed_from_any_checkpoint_ends_as_the_undisturbed_one(data):
    saved = []
    hooks = Hooks(on_checkpoint=lambda build, ended: saved.append((build(), ended)))
    undisturbed = train(data, "training.epochs=2", hooks=hooks)
    assert sum(ended for _, ended in saved) == 5
    for state, _ in saved[::4]:
        resumed = train(data, "training.epochs=2", hooks=Hooks(resume=state))
        assert [e["val_pearson"] for e in resumed.history] == [e["val_pearson"] for e in undisturbed.history]
        for name, tensor in weights_of(undisturbed).items():
            assert torch.equal(weights_of(resumed)[name], tensor)


class MemoryCache(dict):
    def load(self, modality, key):
        return self.get((modality, key))

    def save(self, modality, key, outcome):
        self[modality, key] = outcome


def test_encoders_are_reused_only_if_nothing_that_determines_them_changed(data):
    cache = MemoryCache()
    hooks = Hooks(encoder_cache=cache)
    first = train(data, hooks=hooks)
    again = train(data, "fusion.hidden=8", hooks=hooks)
    assert (first.reused, again.reused) == (frozenset(), {"text", "audio", "vision", "motion"})
    assert again.results["text"].scores == first.results["text"].scores
    assert train(data, "encoders.text.hidden=8", hooks=hooks).reused == {"audio", "vision", "motion"}
    assert train(data, "objective.ccc=0.5", hooks=hooks).reused == frozenset()


def test_reused_encoders_lead_to_the_same_weights(data):
    hooks = Hooks(encoder_cache=MemoryCache())
    first, second = train(data, hooks=hooks), train(data, hooks=hooks)
    for name, tensor in weights_of(first).items():
        assert torch.equal(weights_of(second)[name], tensor)


def test_clips_without_a_modality_are_left_out_of_its_stage_or_enter_as_zeros(data):
    num_missing = int((~data.features["text"].present[split_rows(data).train]).sum())
    assert num_missing > 0
    assert train(data, "training.epochs=1").results["text"].num_train == 96
    skipping = train(data, "training.epochs=1", "encoders.text.missing=skip")
    assert skipping.results["text"].num_train == 96 - num_missing
    assert skipping.results["fusion"].num_train == 96


def test_a_modality_that_no_clip_has_is_refused_by_name(data):
    steps = [None if i < 96 else np.ones((2, 3)) for i in range(len(data))]
    broken = from_arrays({"audio": steps}, data.targets, data.splits, EMOTION_LABELS)
    with pytest.raises(UserError, match="No labelled train clip has audio"):
        train_recipe(load_recipe("audio"), broken, split_rows(broken), seed=0)


def test_statistics_are_those_of_the_training_steps(data):
    packed = data.features["audio"]
    rows = split_rows(data).train
    steps = np.concatenate([packed.of(row) for row in rows]).astype(np.float64)
    mean, deviation = feature_statistics(packed, rows)
    np.testing.assert_allclose(mean, steps.mean(0), rtol=1e-5)
    np.testing.assert_allclose(deviation, steps.std(0), rtol=1e-5)


def test_the_expanded_split_adds_clips_of_val_to_train(data):
    official, expanded = split_rows(data), split_rows(data, "expanded")
    assert set(official.train) < set(expanded.train)
    assert set(expanded.val) < set(official.val)
    everyone = len(official.train) + len(official.val)
    assert len(expanded.train) + len(expanded.val) == everyone
    assert abs(len(expanded.val) - everyone / 5) < 1
    np.testing.assert_array_equal(split_rows(data, "expanded").val, expanded.val)


def test_an_inner_part_of_train_chooses_epochs_without_a_look_at_the_reported_clips(data):
    recipe = load_recipe("f2", [*SMALL, "training.epochs=4", "training.stop_on=inner", "training.lr=2e-2"])
    rows = split_rows(data)
    first = train_recipe(recipe, data, rows, seed=0)
    shuffled = data.targets.copy()
    shuffled[rows.val] = shuffled[rows.val[::-1]]
    second = train_recipe(recipe, replace(data, targets=shuffled), rows, seed=0)
    for name, weights in first.model.state_dict().items():
        assert torch.equal(weights, second.model.state_dict()[name])
    seen = first.rows
    assert sorted([*seen.train, *seen.inner]) == rows.train.tolist()
    assert (len(seen.inner), seen.val.tolist()) == (10, rows.val.tolist())
    for outcome in first.results.values():
        chosen = max(outcome.history, key=lambda entry: entry["inner_pearson"])
        assert outcome.best_epoch == chosen["epoch"]
        assert outcome.scores["val_pearson"] == chosen["val_pearson"]


def test_the_inner_part_is_the_default_where_it_has_four_hundred_clips_and_keeps_people_together():
    def clips(num_train):
        people = [f"p{n}" for n in np.random.default_rng(0).integers(0, 200, num_train)] + [None] * 10
        splits = ["train"] * num_train + ["val"] * 10
        nothing = {"text": [np.ones((1, 1), np.float16)] * (num_train + 10)}
        targets = np.random.default_rng(1).random((num_train + 10, 1))
        return from_arrays(nothing, targets, splits, [Label("joy")], groups=people)

    training = load_recipe("text").training
    few, many = clips(3990), clips(4000)
    assert with_inner_part(few, split_rows(few), training).inner is None
    rows = with_inner_part(many, split_rows(many), training)
    assert 380 <= len(rows.inner) <= 420
    assert not set(many.groups[rows.inner]) & set(many.groups[rows.train])
    on_val = training.model_copy(update={"stop_on": "val"})
    assert with_inner_part(many, split_rows(many), on_val).inner is None


@pytest.mark.parametrize("recurrent", ["gru", "lstm"])
def test_a_recurrent_net_over_one_step_a_clip_is_refused(data, recurrent):
    recipe = load_recipe("text", [f"encoders.text.recurrent={recurrent}"])
    with pytest.raises(UserError, match=f"encoders.text.recurrent = '{recurrent}'.*name=gte-base-tokens"):
        train_recipe(recipe, data, split_rows(data), seed=0)


def test_so_are_deviations_over_one_step_and_a_limit_of_one_step(data):
    for name, changes in (("text", ["type=mean_std"]), ("audio", ["recurrent=lstm", "max_steps=1"])):
        recipe = load_recipe(name, [f"encoders.{name}.{change}" for change in changes])
        with pytest.raises(UserError, match="one step per clip"):
            train_recipe(recipe, data, split_rows(data), seed=0)


def test_the_drawn_splits_keep_the_clips_of_a_person_together(data):
    people = [f"p{index % 48}" for index in range(len(data))]  # each in train, most in val too
    grouped = replace(data, groups=np.array(people, dtype=object))
    rows = split_rows(grouped, "pooled")
    assert not set(grouped.groups[rows.train]) & set(grouped.groups[rows.val])


def test_a_split_without_labels_is_refused(data):
    targets = data.targets.copy()
    targets[96:] = np.nan
    broken = from_arrays({"audio": [np.ones((1, 2))] * len(data)}, targets, data.splits, EMOTION_LABELS)
    with pytest.raises(UserError, match="val split has no labelled clips"):
        split_rows(broken)
