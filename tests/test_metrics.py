import math

import numpy as np
import pytest
import torch
from scipy import stats
from torchmetrics.functional import concordance_corrcoef, pearson_corrcoef

from emi_ray import metrics
from emi_ray.schema import EMOTION_LABELS, Label


@pytest.fixture
def pair():
    random = np.random.default_rng(0)
    targets = random.random((200, 6))
    return 0.5 * targets + 0.3 * random.random((200, 6)) + 0.1, targets


def test_pearson_agrees_with_scipy_and_torchmetrics(pair):
    predictions, targets = pair
    expected = [stats.pearsonr(predictions[:, i], targets[:, i]).statistic for i in range(6)]
    np.testing.assert_allclose(metrics.pearson(*pair), expected, rtol=1e-12)
    np.testing.assert_allclose(metrics.pearson(*pair), pearson_corrcoef(*map(torch.tensor, pair)), rtol=1e-6)


def test_ccc_agrees_with_its_definition_and_with_torchmetrics(pair):
    x, y = pair
    covariance = ((x - x.mean(0)) * (y - y.mean(0))).mean(0)
    expected = 2 * covariance / (x.var(0) + y.var(0) + (x.mean(0) - y.mean(0)) ** 2)
    np.testing.assert_allclose(metrics.ccc(x, y), expected, rtol=1e-12)
    # torchmetrics divides by n - 1
    np.testing.assert_allclose(metrics.ccc(x, y), concordance_corrcoef(*map(torch.tensor, pair)), rtol=2e-2)


def test_errors_agree_with_their_definition(pair):
    x, y = pair
    np.testing.assert_allclose(metrics.mae(x, y), np.abs(x - y).mean(0))
    np.testing.assert_allclose(metrics.mse(x, y), ((x - y) ** 2).mean(0))


def test_a_nan_target_is_left_out_of_its_label_alone(pair):
    predictions, targets = pair
    holed = targets.copy()
    holed[:50, 2] = np.nan
    expected = metrics.pearson(predictions, targets)
    expected[2] = metrics.pearson(predictions[50:], targets[50:])[2]
    np.testing.assert_allclose(metrics.pearson(predictions, holed), expected, rtol=1e-12)


def test_a_constant_label_has_no_correlation_and_the_mean_is_over_the_others(pair):
    predictions, targets = pair
    targets = targets.copy()
    targets[:, 3] = 0.1
    result = metrics.compute_scores(predictions, targets, EMOTION_LABELS)
    assert math.isnan(result["val_pearson_empathic_pain"])
    assert result["num_labels_scored"] == 5
    others = [i for i in range(6) if i != 3]
    assert result["val_pearson"] == pytest.approx(metrics.pearson(predictions, targets)[others].mean())


def test_constant_predictions_correlate_with_nothing(pair):
    assert metrics.pearson(np.full((200, 6), 0.1), pair[1]).tolist() == [0.0] * 6


def test_without_targets_every_score_is_nan():
    result = metrics.compute_scores(np.zeros((3, 1)), np.full((3, 1), np.nan), [Label("a")], "test")
    assert math.isnan(result["test_pearson"])
    assert math.isnan(result["test_mae"])
    assert (result["num_test"], result["num_labels_scored"]) == (3, 0)


def test_a_large_offset_costs_no_precision(pair):
    shifted = pair[0].astype(np.float32) + np.float32(1000)
    expected = [stats.pearsonr(shifted[:, i].astype(float), pair[1][:, i]).statistic for i in range(6)]
    np.testing.assert_allclose(metrics.pearson(shifted, pair[1]), expected, rtol=1e-9)


def test_scores_are_named_by_split_and_snake_case_label(pair):
    result = metrics.compute_scores(*pair, EMOTION_LABELS, "test")
    assert {"test_pearson", "test_ccc", "test_mae", "test_pearson_empathic_pain", "num_test"} <= set(result)


def test_a_prediction_that_is_not_a_number_leaves_its_label_without_a_score():
    rng = np.random.default_rng(0)
    targets, predictions = rng.random((20, 2)), rng.random((20, 2))
    predictions[3, 0] = np.nan
    for score in (metrics.pearson, metrics.ccc, metrics.mae):
        values = score(predictions, targets)
        assert np.isnan(values[0])
        assert np.isfinite(values[1])


def test_a_model_gains_nothing_by_a_label_that_it_fails_to_predict(pair):
    predictions, targets = pair
    predictions[7, 2] = np.nan
    broken = metrics.compute_scores(predictions, targets, EMOTION_LABELS)
    assert all(math.isnan(broken[f"val_{name}"]) for name in ("pearson", "ccc", "mae", "mse"))
    assert math.isfinite(broken["val_pearson_joy"])
    predictions[7, 2] = np.inf
    assert math.isnan(metrics.compute_scores(predictions, targets, EMOTION_LABELS)["val_pearson"])
    targets[7, 2] = np.nan  # nobody asks for that prediction
    assert math.isfinite(metrics.compute_scores(predictions, targets, EMOTION_LABELS)["val_pearson"])
