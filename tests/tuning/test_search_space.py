from pathlib import Path

import optuna
import pytest
import torch

from emi_ray.errors import UserError
from emi_ray.models.build import build_model
from emi_ray.recipe.loading import load_recipe, recipe_names
from emi_ray.tuning.search_space import SearchSpace, load_space, overrides, recipe_keys, value_of
from emi_ray.tuning.settings import RecipeSource, check_space

SPACES = Path(__file__).parents[2] / "search_spaces"
NAMES = ("text", "audio", "vision", "motion", "fusion", "second_place", "first_place")
SHIPPED = [
    pytest.param(
        SPACES / f"{name}.yaml",
        recipe,
        id=f"{name}-{recipe}",
        marks=pytest.mark.skipif(recipe not in recipe_names(), reason=f"there is no recipe {recipe}"),
    )
    for name in NAMES
    for recipe in load_space(SPACES / f"{name}.yaml").recipes
]
CONDITIONAL = """
parameters:
  encoders.audio.recurrent: {choice: [null, gru, lstm]}
  encoders.audio.recurrent_hidden: {choice: [64, 128], when: {encoders.audio.recurrent: [gru, lstm]}}
  encoders.*.hidden: {quantised: [64, 384, 64]}
  training.lr: {loguniform: [1e-5, 1e-3]}
  training.batch_size: {int: [8, 32]}
  fusion.dropout: {quantised: [0.05, 0.65, 0.1]}
"""


def space_of(tmp_path: Path, text: str) -> SearchSpace:
    path = tmp_path / "space.yaml"
    path.write_text(text)
    return load_space(path)


def samples(space: SearchSpace, how_many: int) -> list[dict]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [space.suggest(study.ask()) for _ in range(how_many)]


@pytest.mark.parametrize(("path", "recipe"), SHIPPED)
def test_every_sample_of_a_shipped_space_builds_a_model(path, recipe):
    space, source = load_space(path), RecipeSource(recipe, (), {})
    check_space(source, space)
    dims = dict.fromkeys(source.original.modalities, 8)
    for values in samples(space, 200 if recipe == space.recipes[0] else 10):
        changed = source.load(values)
        assert all(value_of(changed, name) == value for name, value in values.items())
        with torch.device("meta"):
            build_model(changed, dims, 6)


@pytest.mark.parametrize(("path", "recipe"), SHIPPED)
def test_a_shipped_space_holds_the_recipes_own_settings(path, recipe):
    assert load_space(path).outside(load_recipe(recipe)) == []


def test_every_shipped_space_is_known():
    assert sorted(path.stem for path in SPACES.glob("*.yaml")) == sorted(NAMES)


def test_a_conditional_parameter_is_chosen_only_where_its_condition_holds(tmp_path):
    for values in samples(space_of(tmp_path, CONDITIONAL), 60):
        is_recurrent = values["encoders.audio.recurrent"] is not None
        assert ("encoders.audio.recurrent_hidden" in values) == is_recurrent


def test_ranges_keep_their_kind(tmp_path):
    for values in samples(space_of(tmp_path, CONDITIONAL), 30):
        assert values["encoders.*.hidden"] in range(64, 385, 64)
        assert isinstance(values["encoders.*.hidden"], int)
        assert isinstance(values["training.batch_size"], int)
        assert 1e-5 <= values["training.lr"] <= 1e-3
        steps = (values["fusion.dropout"] - 0.05) / 0.1
        assert steps == pytest.approx(round(steps))


def test_a_star_means_every_encoder_of_the_recipe():
    recipe = load_recipe("f1")
    changes = overrides({"encoders.*.hidden": 64, "training.lr": 1e-05, "fusion.hidden": 32}, recipe)
    changed = load_recipe("f1", changes)
    assert [changed.encoders[m].hidden for m in changed.modalities] == [64, 64, 64]
    assert (changed.training.lr, changed.fusion.hidden) == (1e-5, 32)


def test_what_a_stage_leaves_open_is_what_training_says():
    recipe = load_recipe("f2", ["fusion.lr=0.01"])
    assert value_of(recipe, "fusion.lr") == 0.01
    assert value_of(recipe, "fusion.weight_decay") == recipe.training.weight_decay
    assert value_of(recipe, "encoders.*.hidden") is None


def test_own_settings_outside_a_range_are_named(tmp_path):
    space = space_of(
        tmp_path, "parameters: {fusion.dropout: {uniform: [0, 0.3]}, fusion.hidden: {int: [8, 512]}}"
    )
    recipe = load_recipe("f1")
    assert space.own_values(recipe) == {"fusion.hidden": 384}
    assert space.outside(recipe) == ["fusion.dropout"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("parameters: {fusion.dropuot: {uniform: [0, 1]}}", "did you mean 'fusion.dropout'"),
        ("parameters: {fusion.dropout: {uniform: [0.5, 0.1]}}", "must be below"),
        ("parameters: {fusion.dropout: {loguniform: [0, 0.1]}}", "must start above 0"),
        ("parameters: {fusion.dropout: {quantised: [0, 1, 0.3]}}", "multiple of the step"),
        ("parameters: {fusion.dropout: {choice: [0.1]}}", "at least two"),
        ("parameters: {fusion.dropout: {uniform: [0, 1], choice: [1, 2]}}", "exactly one of"),
        ("parameters: {fusion.dropout: {unifrom: [0, 1]}}", "did you mean 'uniform'"),
        (
            "parameters: {fusion.dropout: {uniform: [0, 1], when: {fusion.hidden: 3}}}",
            "is not a parameter above it",
        ),
        ("parameters: {}", "at least 1 item"),
    ],
)
def test_a_wrong_space_is_refused_with_a_remedy(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        space_of(tmp_path, text)


def test_a_space_that_the_recipe_cannot_take_is_refused_before_anything_runs(tmp_path):
    no_motion = space_of(tmp_path, "parameters: {encoders.motion.hidden: {int: [8, 64]}}")
    with pytest.raises(UserError, match=r"encoders\.motion\.hidden.*no motion encoder"):
        check_space(RecipeSource("f1", (), {}), no_motion)
    misspelt = space_of(tmp_path, "parameters: {encoders.vison.hidden: {int: [8, 64]}}")
    with pytest.raises(UserError, match=r"encoders\.vison\.hidden.*did you mean 'vision'"):
        check_space(RecipeSource("f1", (), {}), misspelt)
    too_far = space_of(tmp_path, "parameters: {fusion.dropout: {uniform: [0.1, 1.2]}}")
    with pytest.raises(UserError, match=r"fusion\.dropout = 1\.2"):
        check_space(RecipeSource("f1", (), {}), too_far)


@pytest.mark.parametrize(
    "parameter",
    [
        "split: {choice: [official, expanded]}",
        "encoders.text.features: {choice: [gte-base, hashed]}",
        "'encoders.*.backbone': {choice: [a, b]}",
        "encoders.audio.type: {choice: [pooled, finetune]}",
        "training.seed: {int: [1, 9]}",
    ],
)
def test_what_all_trials_share_cannot_vary(tmp_path, parameter):
    space = space_of(tmp_path, f"parameters: {{{parameter}}}")
    with pytest.raises(UserError, match="must be the same for all trials"):
        check_space(RecipeSource("f1", (), {}), space)


def test_an_encoder_may_have_a_name_like_that_of_a_modality(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("title: Mine\nencoders: {emotion: {type: mlp, modality: text}}\n")
    space = space_of(tmp_path, "parameters: {encoders.emotion.hidden: {int: [8, 64]}}")
    check_space(RecipeSource(str(recipe), (), {}), space)


def test_names_cover_the_schema():
    keys = recipe_keys()
    assert {"fusion.dropout", "encoders.*.hidden", "encoders.audio.hidden", "training.lr", "stages"} <= set(
        keys
    )
    assert not {"name", "title", "paper.row"} & set(keys)
