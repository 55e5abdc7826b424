"""Boxes of one face over time, and the scaling of its crops."""

import numpy as np

from emi_ray.media.boxes import smooth, steady
from emi_ray.media.scaling import resize


def test_smoothing_keeps_what_does_not_move_and_never_crosses_the_start_of_a_run():
    still = np.tile([[1.0, 2.0, 3.0, 4.0]], (5, 1))
    np.testing.assert_allclose(smooth(still), still)
    jump = np.concatenate([still, still + 10])
    assert not np.allclose(smooth(jump), jump)
    np.testing.assert_allclose(steady(jump, np.arange(10), np.ones(10, bool), np.arange(10) == 5), jump)


def test_size_and_rotation_are_interpolated_within_a_run_and_constant_beyond_its_detections():
    shapes = np.array([[20, 30, 0.2]] * 6 + [[60, 90, -0.4]] * 6)
    boxes = np.concatenate([100 - shapes[:, :2] / 2, shapes], axis=1)
    detected = np.isin(np.arange(12), [0, 8])
    np.testing.assert_allclose(steady(boxes, np.arange(12) / 6, detected, np.arange(12) == 6), boxes)
    grown = steady(boxes, np.arange(12) / 6, detected, np.arange(12) == 0)
    np.testing.assert_allclose(grown[4, 2:], (40, 60, -0.1))


def test_a_face_upside_down_turns_along_the_shorter_arc():
    turns = np.array([3.0, 3.1, 0.0, -3.1, -3.0, -2.9])
    boxes = np.column_stack([np.tile([1.0, 2.0, 30.0, 40.0], (6, 1)), turns])
    found = steady(boxes, np.arange(6) / 6, turns != 0, np.arange(6) == 0)[:, 4]
    assert np.all(np.abs(found - np.pi) < 0.3)
    assert np.all(np.diff(found) > 0)


def test_shrinking_averages_and_keeps_the_place():
    image = np.zeros((90, 120, 3), np.uint8)
    image[:, 60:] = 200
    small = resize(image, 40, 30)
    assert small.shape == (30, 40, 3)
    assert small[:, :19].max() == 0
    assert small[:, 21:].min() == 200
    noise = np.random.default_rng(0).integers(0, 255, (512, 512, 3), dtype=np.uint8)
    assert resize(noise, 32, 32).std() < 10
