"""Tracking of one face through a clip."""

import cv2
import numpy as np
import pytest

from emi_ray.config import FaceSettings
from emi_ray.media.boxes import UPRIGHT_SLACK, cut_patch, smooth
from emi_ray.media.face_matching import View
from emi_ray.media.tracking import FaceTracker

SETTINGS = FaceSettings(size_px=64, margin=0.25)


class Script:
    """A finder that finds what the script says for each frame, and notes which frames are searched."""

    def __init__(self, frames):
        self._frames = [np.array(boxes, np.float32).reshape(-1, 4) for boxes in frames]
        self.surveys = []
        self._now = -1

    def __len__(self):
        return len(self._frames)

    def view(self, image):
        self._now += 1
        return View(image, image, np.ascontiguousarray(image[..., 0]), 1.0)

    def survey(self, view):
        self.surveys.append(self._now)
        return np.pad(self._frames[self._now], ((0, 0), (0, 1)))


def track(script, rate_hz=6.0, image=None, settings=SETTINGS):
    """A face's look is nothing in black pictures: it can be found by a search alone."""
    tracker = FaceTracker(script, settings)
    for index in range(len(script)):
        tracker.see(np.zeros((100, 200, 3), np.uint8) if image is None else image, index / rate_hz)
    return tracker.finish()


PEOPLE = np.random.default_rng(7).integers(0, 256, (3, 6, 6, 3), dtype=np.uint8)


def scene(*people, backdrop=40):
    """A picture (200, 400, 3) with people: pairs of a number and a box."""
    image = np.full((200, 400, 3), backdrop, np.uint8)
    for person, (x, y, width, height) in people:
        image[y : y + height, x : x + width] = cv2.resize(PEOPLE[person], (width, height))
    return image


def film(scenes, found=None, settings=SETTINGS, times_s=None):
    """Track through scenes: lists of people, as in :func:`scene`, one for each frame, six per second unless
    ``times_s`` are given. A search finds all of them, or the people that ``found`` lists for each frame.
    """
    script = Script([[box for _, box in people] for people in (found or scenes)])
    tracker = FaceTracker(script, settings)
    times_s = np.arange(len(scenes)) / 6 if times_s is None else times_s
    for people, time_s in zip(scenes, times_s, strict=True):
        tracker.see(scene(*people, backdrop=40 + 60 * (people != [] and people[0][0])), time_s)
    return tracker, tracker.finish(), script


def starts_of(faces):
    return np.flatnonzero(faces.starts).tolist()


def test_the_largest_and_steadiest_face_is_followed():
    steady, large, flash = [20, 20, 20, 20], [100, 20, 40, 40], [60, 60, 60, 40]
    assert np.allclose(track(Script([[steady, large]] * 12)).boxes[:, 0], 0.5)
    assert np.allclose(track(Script([[steady]] * 6 + [[steady, flash]] + [[steady]] * 6)).boxes[:, 0], 0.1)


def test_boxes_are_shares_of_the_frame_and_every_frame_has_its_time():
    faces = track(Script([[[20, 20, 40, 40]]] * 7))
    np.testing.assert_allclose(faces.boxes, [[0.1, 0.2, 0.2, 0.4]] * 7, rtol=1e-6)
    np.testing.assert_allclose(faces.timestamps_s, np.arange(7) / 6, atol=1e-6)
    assert faces.boxes.dtype == faces.timestamps_s.dtype == np.float32


def test_a_short_gap_is_bridged_by_interpolation():
    before, after = [20, 20, 40, 40], [32, 20, 40, 40]
    faces = track(Script([[before]] * 6 + [[]] * 2 + [[after]] * 6))
    assert faces.detected.tolist() == [True] * 6 + [False] * 2 + [True] * 6
    assert starts_of(faces) == [0]
    x = faces.boxes[:, 0] * 200
    assert (np.diff(x) >= -1e-4).all()
    assert 20 < x[6] < x[7] < 32


def test_a_long_gap_is_left_out_and_the_face_is_taken_up_again():
    face = [(0, (100, 60, 64, 64))]
    _, faces, _ = film([face] * 4 + [[]] * 12 + [face] * 8)
    assert faces.detected.all()
    assert starts_of(faces) == [0, 4]
    np.testing.assert_allclose(faces.timestamps_s * 6, [*range(4), *range(16, 24)], atol=1e-4)


def test_frames_before_the_first_and_after_the_last_sighting_have_no_crop():
    face = [(0, (100, 60, 64, 64))]
    _, faces, _ = film([[]] * 3 + [face] * 4 + [[]] * 3)
    np.testing.assert_allclose(faces.timestamps_s * 6, [3, 4, 5, 6], atol=1e-4)


def test_without_any_sighting_there_is_no_face():
    assert track(Script([[]] * 5)) is None


def test_a_known_face_is_followed_between_searches_to_a_fraction_of_a_pixel():
    places = [(0, (100 + 2 * index, 60 + index % 3, 64, 64)) for index in range(14)]
    _, faces, script = film([[place] for place in places])
    assert script.surveys == [0, 6, 12]
    assert faces.detected.all()
    expected = smooth(np.array([box for _, box in places], float)) / (400, 200, 400, 200)
    np.testing.assert_allclose(faces.boxes, expected, atol=0.6 / 200)


def test_a_face_that_grows_between_searches_grows_evenly():
    sizes = [60 + index for index in range(13)]
    _, faces, _ = film([[(0, (120 - size // 2, 100 - size // 2, size, size))] for size in sizes])
    assert np.abs(np.diff(faces.boxes[2:-2, 2] * 400) - 1).max() < 0.35


def test_a_face_that_is_lost_is_searched_at_once():
    here, there = [(0, (60, 60, 64, 64))], [(0, (250, 60, 64, 64))]
    _, faces, script = film([here] * 3 + [there] * 5)
    assert script.surveys[:2] == [0, 3]
    assert len(faces.crops) == 8


def test_where_nobody_is_no_more_is_searched_than_where_somebody_is():
    _, nothing, script = film([[]] * 24)
    assert nothing is None
    assert script.surveys == [0, 6, 12, 18]


def test_a_face_that_appears_between_searches_is_followed_back_to_its_first_frame():
    face = (0, (100, 60, 64, 64))
    _, faces, _ = film(
        [[]] * 3 + [[face]] * 12, settings=SETTINGS.model_copy(update={"detection_rate_hz": 2.0})
    )
    assert faces.timestamps_s[0] * 6 == pytest.approx(3, abs=1e-3)
    assert len(faces.crops) == 12


def test_a_false_alarm_is_not_followed_on():
    thing = (0, (100, 60, 64, 64))
    _, faces, _ = film([[thing]] * 40, found=[[thing]] + [[]] * 39)
    assert len(faces.crops) <= 6


def test_the_same_person_is_followed_across_cuts_and_the_frames_of_others_are_noted():
    anna, ben = (1, (60, 40, 80, 80)), (2, (220, 60, 80, 80))
    tracker, faces, _ = film([[anna]] * 12 + [[ben]] * 9 + [[anna]] * 12)
    np.testing.assert_allclose(np.rint(faces.timestamps_s * 6), [*range(12), *range(21, 33)])
    assert tracker.num_frames_of_others == 9
    assert starts_of(faces) == [0, 12]
    np.testing.assert_allclose(faces.boxes[:, 0], 60 / 400, atol=1e-3)


def test_another_person_at_the_same_place_after_a_cut_is_another_person():
    anna, ben = (1, (60, 40, 80, 80)), (2, (62, 42, 80, 80))
    tracker, faces, _ = film([[anna]] * 12 + [[ben]] * 6)
    assert len(faces.crops) == 12
    assert tracker.num_frames_of_others == 6


@pytest.mark.parametrize("after", [(200, 40, 80, 80), (120, 20, 150, 150)])
def test_one_person_after_a_cut_has_the_place_and_size_of_either_side_alone(after):
    places = [(60, 40, 80, 80)] * 9 + [after] * 9
    tracker = FaceTracker(Script([[place] for place in places]), SETTINGS)
    for index, place in enumerate(places):
        tracker.see(scene((1, place), backdrop=40 if index < 9 else 120), index / 6)
    faces = tracker.finish()
    np.testing.assert_allclose(faces.boxes * (400, 200, 400, 200), places, atol=1)
    assert starts_of(faces) == [0, 9]
    assert tracker.num_frames_of_others == 0


def test_one_person_who_jumps_without_a_cut_is_smoothed_on_either_side_alone():
    places = [(0, (100, 60, 40, 40))] * 9 + [(0, (140, 60, 40, 40))] * 9
    tracker, faces, _ = film([[place] for place in places])
    np.testing.assert_allclose(faces.boxes[:, 0] * 400, [100] * 9 + [140] * 9, atol=1)
    assert starts_of(faces) == [0, 9]
    assert tracker.num_frames_of_others == 0


LEAP_S = np.concatenate([np.arange(9), np.arange(9) + 40]) / 6
"""Timestamps of 18 frames with a gap of more than five seconds in the middle."""


def test_every_frame_counts_once_if_timestamps_leap_between_two_searches():
    face = [(0, (100, 60, 64, 64))]
    _, faces, _ = film([face] * 18, times_s=LEAP_S)
    np.testing.assert_allclose(faces.timestamps_s, LEAP_S, atol=1e-4)


def test_a_frame_counts_once_if_a_face_is_lost_in_a_leap_and_found_again_by_a_rare_search():
    box = (100, 60, 64, 64)
    first, last = (scene((person, box)).astype(np.float32) for person in (0, 1))
    # The face in the middle looks like the last one and unlike the first, and the last one looks like both.
    shares = [0.0] * 9 + [0.9] * 4 + [0.5] * 5
    times_s = [*np.arange(9) / 6, *np.linspace(3.2, 4.0, 5), *np.linspace(4.2, 4.8, 4)]
    script = Script([[box]] * 18)
    tracker = FaceTracker(script, SETTINGS.model_copy(update={"detection_rate_hz": 0.25}))
    for share, time_s in zip(shares, times_s, strict=True):
        tracker.see((first + share * (last - first)).astype(np.uint8), time_s)
    assert script.surveys == [0, 13]
    np.testing.assert_allclose(tracker.finish().timestamps_s, times_s, atol=1e-4)


def test_a_face_is_smoothed_and_sized_on_either_side_of_a_leap_of_timestamps_alone():
    places = [(100, 60, 64, 64)] * 9 + [(116, 50, 80, 80)] * 9
    _, faces, _ = film([[(0, place)] for place in places], times_s=LEAP_S)
    np.testing.assert_allclose(faces.boxes * (400, 200, 400, 200), places, atol=1)
    assert starts_of(faces) == [0, 9]


def test_a_new_face_is_not_followed_back_across_a_leap_of_timestamps():
    face = [(0, (100, 60, 64, 64))]
    _, faces, _ = film([face] * 18, found=[[]] * 9 + [face] * 9, times_s=LEAP_S)
    np.testing.assert_allclose(faces.timestamps_s, LEAP_S[9:], atol=1e-4)


@pytest.mark.parametrize("degrees", [-20, 15])
def test_an_upright_crop_turns_the_face_back(degrees):
    box = np.array([140, 100, 120, 120], np.float32)
    level = np.zeros((400, 400, 3), np.uint8)
    level[120:140, 160:180] = 255  # an eye
    turned = cv2.warpAffine(level, cv2.getRotationMatrix2D((199.5, 159.5), -degrees, 1), (400, 400))
    expected = cut_patch(level, box, 180, UPRIGHT_SLACK, 180).crop(box, 0.25, 180)
    found = cut_patch(turned, box, 180, UPRIGHT_SLACK, 180).crop(box, 0.25, 180, np.radians(degrees))
    assert np.abs(found.astype(int) - expected).mean() < 1


def test_many_false_alarms_do_not_pile_up():
    rng = np.random.default_rng(0)
    frames = [[[20, 20, 40, 40], [*rng.uniform(70, 150, 2), 15, 15]] for _ in range(40)]
    tracker = FaceTracker(Script(frames), SETTINGS)
    for index in range(40):
        tracker.see(np.zeros((200, 200, 3), np.uint8), index / 6)
        assert len(tracker._tracks) <= 5
    assert len(tracker.finish().crops) == 40


@pytest.mark.parametrize("size_px", [32, 64, 300])
def test_the_crop_shows_the_box_in_the_middle_with_the_margin_around_it(size_px):
    image = np.zeros((400, 400, 3), np.uint8)
    image[100:220, 140:260] = 255
    settings = FaceSettings(size_px=size_px, margin=0.25)
    crop = track(Script([[[140, 100, 120, 120]]] * 3), image=image, settings=settings).crops[1, ..., 0]
    expected = np.zeros((size_px, size_px))
    edge, end = size_px / 6, size_px * 5 / 6
    expected[round(edge) : round(end), round(edge) : round(end)] = 255
    differs = np.abs(crop.astype(int) - expected) > 128
    assert differs.sum() <= 4 * size_px
    assert abs(crop.mean() / 255 - (2 / 3) ** 2) < 0.02


def test_a_face_at_the_border_is_padded_with_the_border():
    image = np.full((100, 200, 3), 90, np.uint8)
    crop = track(Script([[[0, 0, 40, 40]]] * 3), image=image).crops[0]
    assert crop.shape == (64, 64, 3)
    assert (crop == 90).all()


def test_a_long_shot_after_many_short_ones_is_followed():
    places = [20, 60, 100, 140]
    frames = [[[place, place, 30, 30]] for place in places for _ in range(8)]
    frames += [[[160, 20, 30, 30]]] * 60
    tracker = FaceTracker(Script(frames), SETTINGS)
    for index in range(len(frames)):
        tracker.see(np.zeros((200, 200, 3), np.uint8), index / 6)
    assert len(tracker.finish().crops) == 60


@pytest.mark.parametrize("rate_hz", [6.0, 1.0, 1 / 1.001, 0.5])
def test_at_any_rate_of_frames_neighbours_belong_together(rate_hz):
    """Films of 29.97 frames per second that are sampled once per second have steps of 1.001 s."""
    faces = track(Script([[(40, 20, 40, 40)]] * 12), rate_hz)
    assert faces.starts.sum() == 1
