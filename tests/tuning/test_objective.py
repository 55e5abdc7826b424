import numpy as np
import pytest
from planted import planted_data, planted_workspace
from tuning_studies import SOURCE, whole_as_tuning_data

from emi_ray.config import WorkspaceConfig
from emi_ray.recipe.loading import load_recipe
from emi_ray.training.data.packed_reading import read_clip_data
from emi_ray.training.data.split_rows import split_rows
from emi_ray.training.plan import plan_run
from emi_ray.training.stages.train_recipe import train_recipe
from emi_ray.tuning.objective import score_recipe
from emi_ray.tuning.tuning_data import tuning_rows


@pytest.fixture(scope="module")
def data():
    return whole_as_tuning_data(planted_data(48, 24, modalities=("text", "audio", "vision")))


def test_a_trials_score_is_that_of_plain_training(data):
    recipe = SOURCE.original
    trained = train_recipe(recipe, data.clips, data.folds[0], seed=recipe.training.seed)
    steps = []
    score = score_recipe(recipe, data, "val_ccc", on_step=lambda step, value: steps.append((step, value)))
    assert score.value == trained.results["fusion"].scores["val_ccc"]
    assert score.num_parameters == sum(parameter.numel() for parameter in trained.model.parameters())
    assert [step for step, _ in steps] == list(range(1, recipe.training.epochs + 1))
    assert steps[-1][1] == score.value


def test_the_score_so_far_never_falls(data):
    steps = []
    score_recipe(SOURCE.original, data, "val_pearson", on_step=lambda _, value: steps.append(value))
    assert steps == sorted(steps)


def test_with_folds_the_score_is_their_mean_and_steps_are_epochs_of_the_first(data):
    recipe = load_recipe("text", ["training.epochs=2", "encoders.text.hidden=8"])
    rows = data.folds[0]
    twice = type(data)(data.clips, (rows, type(rows)(rows.val, rows.train)))
    steps = []
    score = score_recipe(recipe, twice, "val_pearson", on_step=lambda *step: steps.append(step))
    assert score.value == pytest.approx(np.mean(score.fold_values))
    assert [step for step, _ in steps] == [1, 2]
    assert steps[-1][1] == score.fold_values[0]


@pytest.mark.parametrize("recipe_overrides", [[], ["split=expanded"]])
@pytest.mark.parametrize("folds", [1, 3])
def test_no_clip_that_the_recipe_is_reported_on_is_tuned_on(tmp_path, recipe_overrides, folds):
    workspace = planted_workspace(tmp_path, num_train=60, num_val=30, num_test=5)
    recipe = load_recipe("text", recipe_overrides)
    plan = plan_run(workspace, recipe, WorkspaceConfig(), 42)
    data = read_clip_data(workspace, plan.stores)
    official = split_rows(data, recipe.split)
    drawn = tuning_rows(data, workspace.clips(), recipe, folds, 0.25)
    assert len(drawn) == folds
    for rows in drawn:
        assert sorted([*rows.train, *rows.val]) == official.train.tolist()
        assert not set(rows.train) & set(rows.val)
    if folds == 1:
        assert len(drawn[0].val) == round(0.25 * len(official.train))
    else:
        assert sorted(np.concatenate([rows.val for rows in drawn])) == official.train.tolist()
