"""Sampling of frames."""

import numpy as np
import pytest

from emi_ray.media.frame_times import LOOKAHEAD, FrameTimes, Timed
from emi_ray.media.sampling import FrameSampler


def kept(times_s, rate_hz=6.0, max_frames=1000, step_s=0.04):
    sampler = FrameSampler(rate_hz, max_frames, step_s)
    placed = [timed for index, time_s in enumerate(times_s) for timed in sampler.push(index, time_s)]
    return [timed.frame for timed in placed + sampler.finish()], sampler


def times_of(timestamps_s, step_s=0.04):
    """Time of each frame."""
    frame_times = FrameTimes(step_s)
    settled = [timed for index, stamp in enumerate(timestamps_s) for timed in frame_times.push(index, stamp)]
    settled += frame_times.finish()
    assert [timed.frame for timed in settled] == list(range(len(timestamps_s)))
    return [timed.time_s for timed in settled], frame_times.num_repaired


def with_wrong(stamps_s, wrong):
    """Timestamps, some of which are replaced."""
    return [wrong.get(index, stamp_s) for index, stamp_s in enumerate(stamps_s)]


def test_the_first_frame_at_or_after_each_grid_point_is_kept():
    times_s = [index / 25 for index in range(75)]
    naive = [next(i for i, t in enumerate(times_s) if t >= k / 6 - 1e-3) for k in range(18)]
    assert kept(times_s)[0] == naive


def test_the_frame_rate_that_a_container_claims_is_of_no_account():
    times_s = [index / 25 for index in range(75)]
    assert kept(times_s, step_s=1 / 1000)[0] == kept(times_s, step_s=1.0)[0]


def test_a_timestamp_rounded_to_milliseconds_still_meets_its_grid_point():
    assert kept([round(index / 30, 3) for index in range(31)])[0] == [0, 5, 10, 15, 20, 25, 30]


def test_a_first_frame_after_time_zero_is_where_it_is():
    assert kept([1.0, 1.04, 1.17])[0] == [0, 2]
    assert FrameSampler(6.0, 10, 0.04).push("first", 1.0) == [Timed("first", 1.0)]


def test_a_first_frame_before_time_zero_moves_all_of_them():
    sampler = FrameSampler(6.0, 10, 0.04)
    assert sampler.push(0, -0.08) == [Timed(0, 0.0)]
    assert sampler.push(1, 0.12) == [Timed(1, pytest.approx(0.2))]
    assert sampler.num_repaired == 0


def test_no_frame_is_kept_twice_and_a_gap_stays_a_gap():
    assert kept([0.0, 0.1, 5.0, 5.05, 5.2])[0] == [0, 2, 4]


def test_missing_equal_and_backward_timestamps_are_replaced_by_even_steps():
    for times_s in ([None] * 25, [3.0] * 25, [1 - index / 100 for index in range(25)]):
        indices, sampler = kept(times_s)
        assert indices == [0, 5, 9, 13, 17, 21]
        assert sampler.num_repaired == 24


def test_after_the_cap_nothing_is_kept():
    indices, sampler = kept([index / 6 for index in range(10)], max_frames=3)
    assert indices == [0, 1, 2]
    assert sampler.full


def test_a_frame_that_is_not_due_would_not_have_been_kept():
    sampler = FrameSampler(6.0, 1000, 0.04)
    for index in range(75):
        due = sampler.is_due(index / 25)
        kept_now = sampler.push(index, index / 25)
        assert due or not kept_now


def test_every_frame_is_due_while_time_is_unsure():
    sampler = FrameSampler(6.0, 1000, 0.04)
    assert sampler.is_due(0.0)
    sampler.push(0, 0.0)
    assert not sampler.is_due(0.01)
    assert sampler.is_due(None)
    sampler.push(0, 0.0)
    assert sampler.is_due(0.05)


EVEN = [index / 25 for index in range(250)]


@pytest.mark.parametrize("jump_s", [0.5, 0.9, 1.5, 9.0, 500.0, -0.5, -500.0])
@pytest.mark.parametrize("first_wrong", [1, 2, 7, 50, 120])
@pytest.mark.parametrize("num_wrong", [1, 2, 5, LOOKAHEAD])
def test_a_few_wrong_timestamps_do_not_shift_the_rest(jump_s, first_wrong, num_wrong):
    wrong = {index: EVEN[index] + jump_s for index in range(first_wrong, first_wrong + num_wrong)}
    times_s, num_repaired = times_of(with_wrong(EVEN, wrong))
    settled_after = first_wrong + num_wrong + 25
    np.testing.assert_allclose(times_s[:first_wrong], EVEN[:first_wrong])
    np.testing.assert_allclose(times_s[settled_after:], EVEN[settled_after:])
    assert np.all(np.diff(times_s) >= 0)
    if abs(jump_s) > 1:
        np.testing.assert_allclose(times_s, EVEN)
        assert num_repaired == num_wrong


@pytest.mark.parametrize("num_wrong", [1, 2, LOOKAHEAD])
def test_wrong_timestamps_at_the_start_do_not_shift_the_rest(num_wrong):
    times_s, num_repaired = times_of(with_wrong(EVEN, {i: 500 + EVEN[i] for i in range(num_wrong)}))
    np.testing.assert_allclose(times_s, EVEN, atol=1e-9)
    assert num_repaired == num_wrong


def test_a_wrong_first_timestamp_that_became_time_zero_does_not_spoil_the_rest():
    times_s, _ = times_of([0.0] + [time_s - 500 for time_s in EVEN[1:]])
    np.testing.assert_allclose(times_s, EVEN, atol=1e-9)


@pytest.mark.parametrize("num_wrong", [1, 2, 3])
def test_wrong_timestamps_at_the_end_are_repaired(num_wrong):
    times_s, num_repaired = times_of(EVEN[:-num_wrong] + [time_s + 500 for time_s in EVEN[-num_wrong:]])
    np.testing.assert_allclose(times_s, EVEN)
    assert num_repaired == num_wrong


def test_different_wrong_timestamps_in_a_row_are_repaired():
    for first, second, third in ((502, 300, 900), (300, 502, None), (300, -5, 502), (502, 502, 502)):
        times_s, num_repaired = times_of(with_wrong(EVEN, {50: first, 51: second, 52: third}))
        np.testing.assert_allclose(times_s, EVEN)
        assert num_repaired == 3
        times_s, _ = times_of(with_wrong(EVEN, {0: first, 1: second, 2: third}))
        np.testing.assert_allclose(times_s, EVEN, atol=1e-9)


def test_genuine_gaps_slide_shows_and_variable_frame_rates_are_kept():
    pause = EVEN[:100] + [time_s + 60 for time_s in EVEN[100:]]
    late = [time_s + 20 for time_s in EVEN]
    slides = [5.0 * index for index in range(20)]
    speeding = [0, 0.01, 0.5, 0.51, 2.0, 5.5, 5.6, 9.0, 9.01, 9.02, 11.0, 14.0]
    end = EVEN[:246] + [time_s + 60 for time_s in EVEN[246:]]
    for stamps_s in (pause, late, slides, slides[:2], [7.0], speeding, end, EVEN[:200] + [12.0]):
        assert times_of(stamps_s) == (stamps_s, 0)


def test_a_wrong_timestamp_in_a_slide_show_is_repaired():
    slides = [5.0 * index for index in range(20)]
    times_s, num_repaired = times_of(with_wrong(slides, {6: 530.0}))
    assert times_s == with_wrong(slides, {6: pytest.approx(25.04)})
    assert num_repaired == 1


def test_a_repaired_time_later_than_the_next_timestamp_does_not_shift_the_rest():
    for wrong in ({50: None}, {50: -7.0}, {50: None, 51: None}):
        times_s, _ = times_of(with_wrong(EVEN, wrong), step_s=1.0)
        np.testing.assert_allclose(times_s[103:], EVEN[103:])


def test_timestamps_that_restart_for_good_are_joined():
    irregular = [0.0, 0.03, 0.1, 0.14, 0.2, 0.3, 0.34, 0.4, 0.44, 0.5, 0.6, 0.7, 0.73, 0.8]
    times_s, num_repaired = times_of([*EVEN, *irregular])
    np.testing.assert_allclose(np.diff(times_s)[-5:], np.diff(irregular)[-5:])
    assert num_repaired == LOOKAHEAD + 1


def test_frames_are_held_back_only_after_a_jump_and_never_many():
    frame_times = FrameTimes(0.04)
    for stamp_s in EVEN:
        assert len(frame_times.push(None, stamp_s)) == 1
    for index in range(LOOKAHEAD):
        assert frame_times.push(None, 500 + index / 25) == []
    assert len(frame_times.push(None, 501.0)) == LOOKAHEAD + 1
    assert not frame_times.holds_frames


def test_every_frame_is_due_while_a_jump_is_not_decided():
    sampler = FrameSampler(6.0, 1000, 0.04)
    sampler.push(0, 0.0)
    assert sampler.push(1, 500.0) == []
    assert sampler.is_due(0.01)


def test_frames_left_out_at_the_end_are_told():
    sampler = FrameSampler(6.0, 2, 0.04)
    assert [timed.frame for index in range(3) for timed in sampler.push(index, 5.0 * index)] == [0]
    assert not sampler.left_out
    assert [timed.frame for timed in sampler.finish()] == [1]
    assert sampler.left_out
