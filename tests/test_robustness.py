import numpy as np
import pytest
from planted import planted_workspace

from emi_ray.config import WorkspaceConfig
from emi_ray.evaluation import read_run
from emi_ray.metrics import mean_score
from emi_ray.recipe.loading import load_recipe
from emi_ray.reporting.robustness_section import auc, robustness_tables, slope
from emi_ray.robustness import measure_robustness, without
from emi_ray.training.plan import plan_run
from emi_ray.training.run import execute_run
from emi_ray.training.run_files import predict_rows


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workspace = planted_workspace(tmp_path_factory.mktemp("w"), num_train=60, num_val=160, num_test=4)
    small = ["training.epochs=3", "training.lr=3e-3", "fusion.hidden=16"]
    small += [f"encoders.{m}.hidden=16" for m in ("text", "audio", "vision")]
    execute_run(plan_run(workspace, load_recipe("f1", small), WorkspaceConfig(), 1))
    return workspace, measure_robustness(workspace, "f1/1")


def test_every_subset_is_scored_over_the_same_complete_clips(trained):
    workspace, measured = trained
    found = read_run(workspace, "f1/1")
    complete = found.rows.val[found.data.features["text"].present[found.rows.val]]
    assert [each["name"] for each in measured["subsets"]] == [
        "text + audio + vision",
        "text + audio",
        "text + vision",
        "audio + vision",
        "text",
        "audio",
        "vision",
    ]
    assert {each["num_clips"] for each in measured["subsets"]} == {len(complete)}
    whole = predict_rows(found.loaded.model, found.data, complete)
    expected = mean_score("pearson", whole, found.data.targets[complete])
    assert measured["subsets"][0]["val_pearson"] == pytest.approx(expected)
    assert measured["subsets"][0]["low"] < expected < measured["subsets"][0]["high"]


def test_a_hidden_input_is_one_that_the_clip_lacks(trained):
    workspace, measured = trained
    found = read_run(workspace, "f1/1")
    lacking = found.rows.val[~found.data.features["text"].present[found.rows.val]]
    plain = predict_rows(found.loaded.model, found.data, lacking)
    hidden = predict_rows(found.loaded.model, without(found.data, ["text"]), lacking)
    np.testing.assert_allclose(hidden, plain, atol=1e-6)
    (entry,) = [each for each in measured["lacking"] if each["name"] == "without text"] or [None]
    assert (entry is None) == (len(lacking) < 10)


def test_lengths_are_quarters_of_the_clips(trained):
    workspace, measured = trained
    assert len(measured["lengths"]) == 4
    assert sum(each["num_clips"] for each in measured["lengths"]) == 160
    assert workspace.read_json("runs/f1/1/robustness.json") == measured
    assert next(iter(robustness_tables(measured))).title == "With only some modalities"


def test_what_is_not_defined_is_not_a_number():
    assert np.isnan(auc(np.array([0.1, 0.2]), np.array([True, True])))
    assert np.isnan(slope(np.array([0.1, 0.1]), np.array([0.0, 1.0])))
    assert auc(np.array([1.0, 1.0, 0.0]), np.array([True, False, False])) == 0.75
