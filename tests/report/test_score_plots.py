import numpy as np
import pytest

from emi_ray.reporting.plot_style import PALETTE
from emi_ray.reporting.score_plots import (
    Bars,
    RecipeScores,
    prediction_scatter,
    run_dots,
    score_bars,
    training_curves,
)
from emi_ray.results.predictions import ScoredPredictions
from emi_ray.results.runs import Epoch


def test_large_split_is_drawn_as_the_same_sample_every_time() -> None:
    rng = np.random.default_rng(0)
    predictions = ScoredPredictions(
        tuple(map(str, range(100_000))), ("a",), rng.random((100_000, 1)), rng.random((100_000, 1))
    )
    drawings = [prediction_scatter("x", predictions, [0.0]) for _ in range(2)]
    assert drawings[0] == drawings[1]
    assert len(drawings[0]) < 200_000


def test_undefined_scores_leave_gaps() -> None:
    bars = Bars("text", PALETTE["text"], [0.1, float("nan")], float("nan"))
    assert "<svg" in score_bars("x", ["a", "b"], [bars], None)
    assert "<svg" in run_dots("x", [RecipeScores("text", [0.1, 0.2], float("nan"))])


@pytest.mark.parametrize("score", [0.2, float("nan")])
def test_single_epoch_is_drawn(score: float) -> None:
    assert "<svg" in training_curves("x", [Epoch("text", 1, 0.5, 0.5, score)])


def test_constant_and_unknown_targets_are_drawn() -> None:
    true = np.stack([np.zeros(20), np.full(20, np.nan)], axis=1)
    assert "<svg" in prediction_scatter(
        "x", ScoredPredictions(("x",) * 20, ("a", "b"), np.zeros((20, 2)), true), [np.nan] * 2
    )
