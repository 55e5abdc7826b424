"""Tables on the robustness and the calibration of a run."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from emi_ray.reporting.formatting import format_score, grouped, signed
from emi_ray.reporting.text_tables import TextTable
from emi_ray.results.predictions import ScoredPredictions
from emi_ray.schema import Label

_TITLES = {
    "subsets": (
        "With only some modalities",
        "Over the validation clips that have all inputs. Inputs that are not named are hidden from the model.",
    ),
    "lacking": ("On clips that lack an input", "Over the validation clips without this input."),
    "lengths": ("By length", "Quarters of the validation clips by duration."),
    "noise": (
        "With noise",
        "Signal-to-noise ratio of the sound, with noise of the sound's own spectrum; the other inputs are unchanged.",
    ),
    "word_errors": (
        "With word errors",
        "Share of the words that are substituted, deleted or followed by an inserted word; the other inputs stay.",
    ),
}


def robustness_tables(measured: Mapping[str, Any]) -> list[TextTable]:
    """Build the tables of measured robustness; empty parts are left out."""
    tables = []
    for part, (title, note) in _TITLES.items():
        rows = [
            [each["name"], grouped(each["num_clips"]), format_score(each["val_pearson"]), _reach(each)]
            for each in measured.get(part, [])
        ]
        if rows:
            headings = [title.lower(), "clips", "mean Pearson", "95 % interval"]
            tables.append(TextTable(title, headings, rows, note))
    return tables


def calibration_table(answers: ScoredPredictions, labels: Sequence[Label]) -> TextTable:
    """Build the table with slope, bias, and AUC (of the lowest value against higher ones) of each label."""
    low_of = {label.name: label.low for label in labels}
    rows = []
    for index, name in enumerate(answers.labels):
        known = np.isfinite(answers.true[:, index]) & np.isfinite(answers.predicted[:, index])
        predicted, true = answers.predicted[known, index], answers.true[known, index]
        # A label that left the corpus has no known range, so its lowest value counts.
        low = low_of.get(name, float(true.min(initial=np.inf)))
        share = float((true > low).mean()) if len(true) else np.nan
        rows.append(
            [
                name,
                format_score(slope(predicted, true), 2),
                signed(bias(predicted, true), 4),
                format_score(share),
                format_score(auc(predicted, true > low)),
            ]
        )
    headings = ["label", "slope", "bias", "share above the lowest", "AUC, lowest against higher"]
    note = (
        "Slope of the regression of true values on predictions: 1 is calibrated; below 1, the predictions vary too "
        "much. Bias: mean prediction minus mean true value. AUC: probability that a clip above the label's lowest "
        "value has a higher prediction than a clip at the lowest value."
    )
    return TextTable("Calibration", headings, rows, note)


def slope(predicted: np.ndarray, true: np.ndarray) -> float:
    """Compute the slope of the least-squares line of true values on predictions; NaN for constant predictions."""
    if len(predicted) < 2 or predicted.min() == predicted.max():
        return float("nan")
    return float(stats.linregress(predicted, true).slope)


def bias(predicted: np.ndarray, true: np.ndarray) -> float:
    """Compute the mean prediction minus the mean true value; NaN without clips."""
    return float(predicted.mean() - true.mean()) if len(predicted) else float("nan")


def auc(predicted: np.ndarray, positive: np.ndarray) -> float:
    """Compute the area under the ROC curve from ranks (Mann and Whitney 1947); ties count half.

    It is NaN if all clips, or none, are positive.
    """
    num_positive = int(positive.sum())
    num_others = len(positive) - num_positive
    if not num_positive or not num_others:
        return float("nan")
    ranks = stats.rankdata(predicted)
    return float(
        # Mann and Whitney's U, divided by the number of pairs.
        (ranks[positive].sum() - num_positive * (num_positive + 1) / 2) / (num_positive * num_others)
    )


def _reach(each: Mapping[str, Any]) -> str:
    return "–" if each["low"] is None else f"{format_score(each['low'])} to {format_score(each['high'])}"
