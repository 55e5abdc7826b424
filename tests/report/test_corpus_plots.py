import numpy as np
import pytest

from emi_ray.reporting.collect import FeatureSet
from emi_ray.reporting.corpus_plots import coverage_bars, label_histograms, step_histograms
from emi_ray.schema import Label


def feature_set(num_steps: list[int]) -> FeatureSet:
    return FeatureSet("audio", "f00", {"extractor": "prosody"}, np.array(num_steps, np.int32), 0, 0, 0)


@pytest.mark.parametrize("num_steps", [[5], [3, 3, 3], [1, 12_500]])
def test_steps_of_any_spread_are_drawn(num_steps: list[int]) -> None:
    assert f"longest {max(num_steps):,}" in step_histograms("x", [feature_set(num_steps)])


def test_extractor_without_any_clip_is_drawn() -> None:
    assert "audio: prosody" in coverage_bars("x", [feature_set([])])


def test_labels_of_any_range_are_drawn_even_where_a_split_has_none() -> None:
    labels = [Label("Valence", -1, 1), Label("Rating", 1, 7)]
    values = {
        "train": {"Valence": np.linspace(-1, 1, 50), "Rating": np.full(50, 7.0)},
        "val": {"Valence": np.array([]), "Rating": np.array([9.0, 0.0])},
    }
    drawing = label_histograms("x", labels, values)
    assert "=-1" in drawing or "=−1" in drawing
    assert "Rating" in drawing
