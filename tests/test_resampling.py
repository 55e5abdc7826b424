import numpy as np
import pytest
from scipy import stats

from emi_ray.metrics import mean_score
from emi_ray.resampling import (
    Difference,
    codes_of,
    draw_rows,
    holm,
    pearson_intervals,
    sample_scores,
    score_difference,
)


def correlated(num_clips: int, num_labels: int = 2) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    true = rng.normal(size=(num_clips, num_labels))
    return 0.5 * true + rng.normal(size=(num_clips, num_labels)), true


def test_interval_agrees_with_scipys_bootstrap() -> None:
    predicted, true = correlated(400)
    mine = pearson_intervals(predicted, true).labels[0]
    theirs = stats.bootstrap(
        (predicted[:, 0], true[:, 0]),
        lambda x, y: stats.pearsonr(x, y).statistic,
        paired=True,
        vectorized=False,
        n_resamples=1000,
        method="percentile",
        rng=1,
    ).confidence_interval
    assert mine.low == pytest.approx(theirs.low, abs=0.02)
    assert mine.high == pytest.approx(theirs.high, abs=0.02)


def test_unknown_targets_count_for_their_label_alone() -> None:
    predicted, true = correlated(300)
    holed = true.copy()
    holed[:100, 0] = np.nan
    assert pearson_intervals(predicted, holed).labels[1] == pearson_intervals(predicted, true).labels[1]
    narrow, wide = (pearson_intervals(predicted, each).labels[0] for each in (true, holed))
    assert wide.high - wide.low > narrow.high - narrow.low


def test_constant_target_has_no_interval_and_leaves_the_mean() -> None:
    predicted, true = correlated(200)
    true[:, 0] = 0.3
    intervals = pearson_intervals(predicted, true)
    assert np.isnan(intervals.labels[0].low)
    assert intervals.mean == intervals.labels[1]


def test_large_offset_costs_no_precision() -> None:
    predicted, true = correlated(200)
    here, far = pearson_intervals(predicted, true), pearson_intervals(predicted + 1e6, true + 1e6)
    assert far.mean.low == pytest.approx(here.mean.low, abs=1e-6)


def test_constantly_predicted_label_counts_as_zero_in_the_interval_as_in_the_mean() -> None:
    predicted, true = correlated(400, 4)
    predicted[:, 1] = 0.1
    mean = mean_score("pearson", predicted, true)
    found = pearson_intervals(predicted, true)
    assert found.mean.low < mean < found.mean.high
    assert (found.labels[1].low, found.labels[1].high) == (0, 0)


@pytest.mark.parametrize(("scale", "offset"), [(1e-9, 0.0), (1e-9, 5.0), (1e-200, 0.0), (1e9, -1e12)])
def test_label_of_any_range_has_the_same_interval(scale: float, offset: float) -> None:
    predicted, true = correlated(200)
    usual = pearson_intervals(predicted, true)
    found = pearson_intervals(predicted * scale + offset, true * scale + offset)
    assert found.mean.low == pytest.approx(usual.mean.low, abs=1e-4)
    assert found.labels[0].high == pytest.approx(usual.labels[0].high, abs=1e-4)


def test_broken_predictions_have_no_interval_and_neither_has_their_mean() -> None:
    predicted, true = correlated(200)
    predicted[3, 0] = np.nan
    found = pearson_intervals(predicted, true)
    assert np.isnan([found.labels[0].low, found.mean.low]).all()
    assert np.isfinite(found.labels[1].low)


def test_resample_without_a_rare_label_says_nothing_of_the_mean() -> None:
    predicted, true = correlated(60, 2)
    true[:, 0] = 0
    true[:2, 0] = 1  # missing from a seventh of the resamples
    predicted[:, 0] = true[:, 0]
    found = pearson_intervals(predicted, true)
    assert found.labels[0].low == pytest.approx(1)
    # Not the mean of the other label alone, which would reach far below.
    assert found.mean.low > 0.5 + found.labels[1].low / 2 - 0.05


def people(num_people: int = 30, each: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predictions and truth that share something of each person."""
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(num_people), each)
    own = rng.normal(size=(num_people, 1))[codes]
    true = own + rng.normal(size=(len(codes), 1))
    return own + rng.normal(0, 1.5, (len(codes), 1)), true, codes


def test_clips_of_one_person_do_not_count_as_many_people() -> None:
    predicted, true, codes = people()
    alone, together = pearson_intervals(predicted, true), pearson_intervals(predicted, true, codes)
    assert together.num_groups == 30
    assert together.mean.high - together.mean.low > 1.5 * (alone.mean.high - alone.mean.low)


def test_clip_that_names_no_person_is_one_of_its_own() -> None:
    codes = codes_of(["a", None, "b", "a", None], 5)
    assert codes[0] == codes[3]
    assert len(set(codes)) == 4
    assert len(set(codes_of(None, 5))) == 5
    drawn = draw_rows(np.random.default_rng(0), codes)
    assert list(drawn).count(0) == list(drawn).count(3)


def differences(
    first: list[np.ndarray], second: list[np.ndarray], true: np.ndarray, codes: np.ndarray | None = None
) -> list[Difference]:
    codes = np.arange(len(true)) if codes is None else codes
    sides = [sample_scores(side, true, codes) for side in (first, second)]
    return score_difference(*sides, paired_seeds=len(first) == len(second))


def test_difference_agrees_with_scipys_paired_bootstrap() -> None:
    rng = np.random.default_rng(3)
    true = rng.normal(size=(400, 1))
    good, bad = (true + rng.normal(0, noise, (400, 1)) for noise in (1.0, 1.4))
    label, mean = differences([good], [bad], true)
    theirs = stats.bootstrap(
        (good[:, 0], bad[:, 0], true[:, 0]),
        lambda x, y, z: stats.pearsonr(x, z).statistic - stats.pearsonr(y, z).statistic,
        paired=True,
        vectorized=False,
        n_resamples=2000,
        method="percentile",
        rng=1,
    )
    assert label == mean
    assert mean.error == pytest.approx(theirs.standard_error, rel=0.1)
    assert mean.low == pytest.approx(theirs.confidence_interval.low, abs=0.012)
    assert mean.high == pytest.approx(theirs.confidence_interval.high, abs=0.012)
    assert mean.p_value < 0.05


def test_system_does_not_differ_from_itself_and_luck_of_seeds_widens_a_difference() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(size=(300, 1))
    good = [true + rng.normal(0, 1.0, true.shape) for _ in range(4)]
    lucky = [true + rng.normal(0, noise, true.shape) for noise in (0.9, 1.6, 1.0, 1.5)]
    same = differences(good, good, true)[1]
    assert (same.value, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    even = [true + rng.normal(0, 1.25, true.shape) for _ in range(4)]
    steady = differences(good, even, true)[1]
    wavering = differences(good, lucky, true)[1]
    assert wavering.error > steady.error


def test_holms_correction_is_that_of_its_definition() -> None:
    assert holm([0.01, 0.04, 0.03, np.nan]) == pytest.approx([0.03, 0.06, 0.06, np.nan], nan_ok=True)
    assert holm([0.9, 0.8]) == [1.0, 1.0]
