import numpy as np
import pytest
from scipy import stats

from emi_ray.report.intervals import pearson_intervals


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
