"""Sampling of frames."""

import pytest

from emi_ray.media.sampling import FrameSampler


def kept(times_s, rate_hz=6.0, max_frames=1000, step_s=0.04):
    sampler = FrameSampler(rate_hz, max_frames, step_s)
    placed = [sampler.place(time_s) for time_s in times_s]
    return [index for index, time_s in enumerate(placed) if time_s is not None], sampler


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
    assert FrameSampler(6.0, 10, 0.04).place(1.0) == 1.0


def test_a_first_frame_before_time_zero_moves_all_of_them():
    sampler = FrameSampler(6.0, 10, 0.04)
    assert sampler.place(-0.08) == 0.0
    assert sampler.place(0.12) == pytest.approx(0.2)
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
        assert due or sampler.place(index / 25) is None
        if due:
            sampler.place(index / 25)


def test_every_frame_is_due_while_time_is_unsure():
    sampler = FrameSampler(6.0, 1000, 0.04)
    assert sampler.is_due(0.0)
    sampler.place(0.0)
    assert not sampler.is_due(0.01)
    assert sampler.is_due(None)
    sampler.place(0.0)
    assert sampler.is_due(0.05)
