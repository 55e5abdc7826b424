"""Every recipe that ships: it loads, builds, trains and is rebuilt from its own description."""

from importlib import resources

import numpy as np
import pytest
import torch
from planted import DIMS, STEPS, planted_data

from emi_ray.errors import UserError
from emi_ray.extractors import EXTRACTORS
from emi_ray.models.build import build_model
from emi_ray.recipe.loading import load_recipe, recipe_names
from emi_ray.schema import Label
from emi_ray.training.data.batching import Batcher
from emi_ray.training.data.clip_data import from_arrays
from emi_ray.training.data.split_rows import split_rows
from emi_ray.training.run_files import final_rows, predict_rows
from emi_ray.training.stages.train_recipe import train_recipe

QUICK = ["training.epochs=1", "training.batch_size=8"]


@pytest.fixture(scope="module")
def data():
    return planted_data(num_train=24, num_val=16)


@pytest.fixture(scope="module")
def by_token():
    """The same with a step a token of text."""
    return planted_data(num_train=24, num_val=16, steps={**STEPS, "text": 5})


def trainable_here():
    return [name for name in recipe_names() if "finetune" not in name]


@pytest.mark.parametrize("name", trainable_here())
def test_a_shipped_recipe_trains_on_whatever_features_there_are(name, data, by_token):
    data = by_token if name == "t3-gte-lstm" else data
    recipe = load_recipe(name, QUICK, any_features=True)
    rows = split_rows(data, recipe.split)
    trained = train_recipe(recipe, data, rows, seed=0)
    scores = list(trained.results.values())[-1].scores
    assert np.isfinite(scores["val_pearson"])
    again = build_model(recipe, DIMS, len(data.labels))
    again.load_state_dict(trained.model.state_dict())
    val = final_rows(recipe, data, rows).val
    first, second = (predict_rows(model.eval(), data, val) for model in (trained.model, again))
    np.testing.assert_array_equal(first, second)


def test_a_recurrent_text_encoder_names_features_with_a_step_a_token():
    recipes = [recipe for recipe in map(load_recipe, recipe_names()) if "text" in recipe.encoders]
    wanted = {(r.name, r.encoders["text"].features) for r in recipes if r.encoders["text"].recurrent}
    assert ("t3-gte-lstm", "gte-base-tokens") in wanted
    assert all(EXTRACTORS[features].Settings().sequence for _, features in wanted)


@pytest.mark.parametrize("name", recipe_names())
def test_the_lengths_of_clips_have_no_say_in_who_is_in_a_batch(name):
    training = load_recipe(name).training
    random = np.random.default_rng(0)

    def batches(lengths):
        clips = from_arrays(
            {"audio": [np.ones((n, 2), np.float16) for n in lengths]},
            np.zeros((90, 1)),
            ["train"] * 90,
            [Label("joy")],
        )
        batcher = Batcher(clips, ["audio"], torch.device("cpu"))
        return batcher.training_batches(np.arange(90), training.batch_size, training.bucket_batches, [0, 1])

    equal, tailed = batches([1] * 90), batches(random.integers(1, 200, 90))
    assert [batch.tolist() for batch in equal] == [batch.tolist() for batch in tailed]


def test_batches_sorted_by_length_are_for_losses_of_single_clips_alone():
    assert load_recipe("first-place", ["training.bucket_batches=8"]).training.bucket_batches == 8
    for objective in ("ccc=0.1", "pearson=0.1"):
        with pytest.raises(UserError, match=r"bucket_batches = 8.*set it to 1"):
            load_recipe("first-place", ["training.bucket_batches=8", f"objective.{objective}"])


@pytest.mark.parametrize("name", recipe_names())
def test_each_recipe_s_file_says_which_settings_are_ours(name):
    text = (resources.files("emi_ray") / "recipes" / f"{name}.yaml").read_text()
    comments = [line for line in text.splitlines() if line.startswith("#")]
    assert any(line.startswith("# Ours: ") for line in comments)


@pytest.mark.parametrize("name", [name for name in recipe_names() if name.endswith("-faithful")])
def test_a_faithful_recipe_has_what_the_paper_tells(name):
    recipe = load_recipe(name)
    assert not any(encoder.standardise for encoder in recipe.encoders.values())
    assert (recipe.training.stop_on, recipe.training.bucket_batches) == ("val", 1)
    assert (recipe.training.lr, recipe.training.batch_size, recipe.objective.ccc) == (2e-4, 16, 0.7)
    if recipe.fusion is not None and "motion" in recipe.encoders:
        model = build_model(recipe, DIMS, 6)
        learning = {id(p) for group in model.parameter_groups() for p in group.parameters}
        assert not any(id(p) in learning or p.requires_grad for p in model.encoder("motion").parameters())
        assert all(
            id(p) in learning for m in ("text", "audio", "vision") for p in model.encoder(m).parameters()
        )


def test_every_row_of_tables_four_and_five_has_a_faithful_recipe():
    faithful = [load_recipe(name).paper for name in recipe_names() if name.endswith("-faithful")]
    rows = sorted(f"{paper.table} {paper.row}" for paper in faithful)
    assert rows == ["4 audio", "4 motion", "4 text", "4 video", "5 F1", "5 F2", "5 F3", "5 F4", "5 F5"]


def test_motion_leaves_a_faithful_fusion_as_its_own_stage_left_it(data):
    small = [f"encoders.{m}.hidden=8" for m in DIMS]
    recipe = load_recipe("paper-faithful", [*QUICK, *small, "training.lr=1e-2"])
    trained = train_recipe(recipe, data, split_rows(data), seed=0)
    for modality in DIMS:
        before = trained.results[modality].weights
        after = trained.model.encoder(modality).state_dict()
        same = all(torch.equal(before[f"encoder.{name}"], weights) for name, weights in after.items())
        assert same == (modality == "motion")


def test_table_three_has_fifteen_rows_each_of_a_named_extractor():
    rows = [load_recipe(name) for name in recipe_names() if name.startswith("t3-")]
    assert len(rows) == 15
    for recipe in rows:
        (modality,) = recipe.modalities
        assert recipe.encoders[modality].features is not None
        assert recipe.paper.val_pearson is not None


def test_each_part_of_the_second_place_can_be_switched_off_alone():
    off = ["objective.pearson=0", "objective.auxiliary=0", "fusion.latents={}", "training.ema_decay=null"]
    for part in off:
        also = ["objective.latent_prior=0"] if "latents" in part else []
        model = build_model(load_recipe("second-place", [part, *also]), DIMS, 6)
        assert bool(model.head.branches) == ("auxiliary" not in part)
        assert bool(model.head.codes) == ("latents" not in part)
    assert isinstance(model, torch.nn.Module)


def test_the_ablation_differs_in_nothing_but_how_it_is_trained():
    staged, frozen, joint = (load_recipe(f"ablation-{way}") for way in ("staged", "frozen", "joint"))
    assert staged.encoders == frozen.encoders
    # What a stage of its own does with clips that lack the modality is nothing that joint training reads.
    without_stage = {
        name: one.model_copy(update={"missing": "skip"}) for name, one in staged.encoders.items()
    }
    assert without_stage == joint.encoders
    assert staged.objective == frozen.objective == joint.objective
    assert staged.training == frozen.training == joint.training
    assert joint.training_of(joint.fusion).epochs == 2 * staged.training.epochs
