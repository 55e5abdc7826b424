import numpy as np
import pytest

from emi_ray.extractors.builtin.rolling import mean_around, slope_around, std_around

VALUES = np.random.default_rng(0).normal(size=(40, 3))


def window(values: np.ndarray, step: int, width: int) -> np.ndarray:
    """The steps around ``step``, the ends repeated."""
    half = width // 2
    return values[np.clip(np.arange(step - half, step + half + 1), 0, len(values) - 1)]


@pytest.mark.parametrize("width", [3, 7, 25, 75])
def test_mean_and_deviation_are_those_of_the_window_written_out(width):
    expected = np.array([window(VALUES, step, width).mean(axis=0) for step in range(40)])
    assert mean_around(VALUES, width) == pytest.approx(expected)
    expected = np.array([window(VALUES, step, width).std(axis=0) for step in range(40)])
    assert std_around(VALUES, width) == pytest.approx(expected)


def test_slope_is_that_of_the_fitted_line():
    expected = [np.polyfit(np.arange(-2, 3), window(VALUES[:, 0], step, 5), 1)[0] for step in range(40)]
    assert slope_around(VALUES[:, 0]) == pytest.approx(np.array(expected))


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_fewer_steps_than_the_window_work(steps):
    values = np.full((steps, 2), 7.0)
    assert mean_around(values, 25) == pytest.approx(values)
    assert std_around(values, 25) == pytest.approx(0 * values)
    assert slope_around(values) == pytest.approx(0 * values)
