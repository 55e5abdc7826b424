"""Every step of a long clip is kept once, in order, with its context."""

import numpy as np
import pytest

from emi_ray.extractors.pretrained.windows import StepGeometry, plan_windows

WAV2VEC2 = StepGeometry.of((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2))


def test_wav2vec2_steps_are_20_ms_apart_and_see_25_ms():
    assert StepGeometry(400, 320) == WAV2VEC2


@pytest.mark.parametrize("num_samples", [0, 399, 400, 719, 720, 1024, 16_000, 99_999])
def test_step_counts_are_those_of_the_convolutions_one_by_one(num_samples):
    steps = num_samples
    for kernel, stride in zip((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2), strict=True):
        steps = max(0, (steps - kernel) // stride + 1)
    assert WAV2VEC2.num_steps(num_samples) == steps
    if steps:
        assert WAV2VEC2.num_steps(WAV2VEC2.num_samples(steps)) == steps
        assert WAV2VEC2.num_samples(steps) <= num_samples


@pytest.mark.parametrize("num_steps", [1, 999, 1000, 1001, 2001, 15_000, 62_499])
def test_windows_keep_each_step_once_with_context_and_within_size(num_steps):
    windows = plan_windows(num_steps, size=1000, overlap=100)
    kept = np.concatenate([np.arange(w.keep_first, w.keep_last) for w in windows])
    np.testing.assert_array_equal(kept, np.arange(num_steps))
    for window in windows:
        assert window.num_steps <= 1000
        assert window.first == max(0, window.keep_first - 100) or len(windows) == 1
        assert window.last == min(num_steps, window.keep_last + 100)
        assert np.array_equal(
            np.arange(window.first, window.last)[window.kept], np.arange(window.keep_first, window.keep_last)
        )
