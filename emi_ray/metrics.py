"""Scores of predictions, computed in float64 over a whole split at once.

The score functions take ``predictions`` and ``targets`` (N, L) and return one number per label, (L,). A target that
is NaN is unknown: the clip is left out of the score of that label only. If a label has fewer than two known targets,
or all its targets are equal, its correlation is undefined (NaN). If all its predictions are equal, its correlation is
0. A prediction that is not finite makes the scores of its label NaN, and also every mean over labels: otherwise a
model could improve its mean score by failing on a difficult label.
"""

from collections.abc import Sequence

import numpy as np

from emi_ray.schema import Label, snake


def pearson(predictions: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Compute Pearson's correlation r of each label, (L,)."""
    moments = _Moments(predictions, targets)
    spread = np.sqrt(moments.prediction_variance * moments.target_variance)
    # not (spread <= 0) keeps NaN, which a failed prediction must give; only a spread of 0 gives r = 0.
    r = np.divide(moments.covariance, spread, out=np.zeros_like(spread), where=~(spread <= 0))
    return np.where(moments.target_is_constant, np.nan, np.clip(r, -1.0, 1.0))


def ccc(predictions: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Compute the concordance correlation coefficient of each label (Lin 1989), (L,), with population moments."""
    moments = _Moments(predictions, targets)
    spread = moments.prediction_variance + moments.target_variance + moments.mean_difference**2
    # The same rule as in pearson(): constant predictions give 0, failed ones NaN.
    value = np.divide(2 * moments.covariance, spread, out=np.zeros_like(spread), where=~(spread <= 0))
    return np.where(moments.target_is_constant, np.nan, value)


def mae(predictions: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Compute the mean absolute error of each label, (L,), in the label's units."""
    return _mean(np.abs(predictions.astype(np.float64) - targets), np.isfinite(targets))


def mse(predictions: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Compute the mean squared error of each label, (L,), in the label's units squared."""
    return _mean((predictions.astype(np.float64) - targets) ** 2, np.isfinite(targets))


BY_LABEL = {"pearson": pearson, "ccc": ccc, "mae": mae, "mse": mse}
"""The score functions by name."""

_ERRORS = ("mae", "mse")


def lower_is_better(name: str) -> bool:
    """Return whether a score such as ``val_mse`` is an error, which is minimised, instead of a correlation."""
    return name.rpartition("_")[2] in _ERRORS


def label_score(label: str, split: str = "val") -> str:
    """Return the name of the Pearson correlation of one label, ``val_pearson_<label in snake case>``."""
    return f"{split}_pearson_{snake(label)}"


def compute_scores(
    predictions: np.ndarray, targets: np.ndarray, labels: Sequence[Label], split: str = "val"
) -> dict[str, float]:
    """Compute all scores of one split.

    Args:
        predictions: (N, L) in the units of the labels.
        targets: (N, L), NaN for unknown values.
        labels: the L labels.
        split: prefix of the names of the scores.

    Returns:
        ``val_pearson`` (mean over the labels whose targets vary), ``val_ccc``, ``val_mae``, ``val_mse``,
        ``val_pearson_<label in snake case>``, ``num_val`` (clips) and ``num_labels_scored``.
    """
    by_label = {name: score(predictions, targets) for name, score in BY_LABEL.items()}
    broken = bool(is_broken(predictions, targets).any())
    means = {name: float("nan") if broken else mean_of_known(values) for name, values in by_label.items()}
    result = {f"{split}_{name}": mean for name, mean in means.items()}
    correlations = by_label["pearson"]
    for label, value in zip(labels, correlations, strict=True):
        result[f"{split}_pearson_{snake(label.name)}"] = float(value)
    result[f"num_{split}"] = len(targets)
    result["num_labels_scored"] = int(np.isfinite(correlations).sum())
    return result


def mean_score(name: str, predictions: np.ndarray, targets: np.ndarray) -> float:
    """Compute the mean over labels of one score of :data:`BY_LABEL`, with the rules of :func:`compute_scores`."""
    if is_broken(predictions, targets).any():
        return float("nan")
    return mean_of_known(BY_LABEL[name](predictions, targets))


def is_broken(predictions: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return for each label, (L,) bool, whether a clip with a known target has a prediction that is not finite."""
    broken: np.ndarray = (np.isfinite(targets) & ~np.isfinite(predictions)).any(axis=0)
    return broken


def is_constant(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return for each label, (L,) bool, whether all its known values are equal or it has none.

    Args:
        values: (N, L).
        known: (N, L) bool, which values count.
    """
    # Compared exactly: a variance of equal values can differ from 0 by rounding errors.
    lowest = np.where(known, values, np.inf).min(axis=0, initial=np.inf)
    highest = np.where(known, values, -np.inf).max(axis=0, initial=-np.inf)
    constant: np.ndarray = lowest >= highest
    return constant


def mean_of_known(values: np.ndarray) -> float:
    """Return the mean of the finite values; NaN if there are none."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


class _Moments:
    """Population moments (L,) of each label over the clips with a known target."""

    def __init__(self, predictions: np.ndarray, targets: np.ndarray) -> None:
        if predictions.shape != targets.shape:
            raise ValueError(f"predictions {predictions.shape} and targets {targets.shape} differ in shape")
        known = np.isfinite(targets)
        # Infinite predictions become NaN before any arithmetic, which would warn.
        x = np.where(known & np.isfinite(predictions), predictions, np.nan).astype(np.float64)
        y = np.where(known, targets, np.nan).astype(np.float64)
        x_mean, y_mean = _mean(x, known), _mean(y, known)
        x_off, y_off = x - x_mean, y - y_mean
        self.mean_difference = x_mean - y_mean
        # Set to exactly 0, because rounding errors would otherwise give a random correlation.
        self.prediction_variance = np.where(is_constant(x, known), 0.0, _mean(x_off**2, known))
        self.target_is_constant = is_constant(y, known)
        self.target_variance = np.where(self.target_is_constant, 0.0, _mean(y_off**2, known))
        self.covariance = _mean(x_off * y_off, known)


def _mean(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    counts = known.sum(axis=0)
    totals = np.where(known, values, 0.0).sum(axis=0)
    # NaN for a label without known targets, without a warning.
    return np.divide(totals, counts, out=np.full(totals.shape, np.nan), where=counts > 0)
