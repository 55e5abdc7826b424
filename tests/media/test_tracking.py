"""Facts about following one face through a clip."""

import numpy as np
import pytest

from emi_ray.config import FaceSettings
from emi_ray.media.scaling import resize
from emi_ray.media.tracking import FaceTracker, smooth

SETTINGS = FaceSettings(size_px=64, margin=0.25)


class Script:
    """A finder that finds what the script says for each frame: lists of boxes."""

    def __init__(self, frames):
        self._frames = [np.array(boxes, np.float32).reshape(-1, 4) for boxes in frames]
        self.surveys = []
        self._now = -1

    def next(self):
        self._now += 1

    def survey(self, image):
        self.surveys.append(self._now)
        return self._frames[self._now]

    def near(self, image, box):
        boxes = self._frames[self._now]
        close = [b for b in boxes if np.abs(b[:2] - box[:2]).max() < 10]
        return close[0] if close else None


def track(script, rate_hz=6.0, image=None, settings=SETTINGS):
    tracker = FaceTracker(script, settings)
    for index in range(len(script._frames)):
        script.next()
        tracker.see(np.zeros((100, 200, 3), np.uint8) if image is None else image, index / rate_hz)
    return tracker.finish()


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
    x = faces.boxes[:, 0] * 200
    assert (np.diff(x) >= -1e-4).all()
    assert 20 < x[6] < x[7] < 32


def test_a_long_gap_is_left_out_and_the_face_is_taken_up_again():
    face = [20, 20, 40, 40]
    faces = track(Script([[face]] * 4 + [[]] * 12 + [[face]] * 4))
    assert faces.detected.all()
    np.testing.assert_allclose(faces.timestamps_s * 6, [0, 1, 2, 3, 16, 17, 18, 19], atol=1e-4)


def test_frames_before_the_first_and_after_the_last_sighting_have_no_crop():
    faces = track(Script([[]] * 3 + [[[20, 20, 40, 40]]] * 2 + [[]] * 3))
    np.testing.assert_allclose(faces.timestamps_s * 6, [3, 4], atol=1e-4)


def test_without_any_sighting_there_is_no_face():
    assert track(Script([[]] * 5)) is None


def test_a_known_face_spares_surveys():
    script = Script([[[20, 20, 40, 40]]] * 13)
    track(script)
    assert script.surveys == [0, 6, 12]
    lost = Script([[[20, 20, 40, 40]]] * 2 + [[]] + [[[20, 20, 40, 40]]] * 2)
    track(lost)
    assert lost.surveys == [0, 2, 3]


def test_many_false_alarms_do_not_pile_up():
    rng = np.random.default_rng(0)
    frames = [[[20, 20, 40, 40], [*rng.uniform(70, 150, 2), 15, 15]] for _ in range(40)]
    tracker = FaceTracker(script := Script(frames), SETTINGS)
    for index in range(40):
        script.next()
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


def test_smoothing_keeps_what_does_not_move_and_never_crosses_a_gap():
    still = np.tile([[1.0, 2.0, 3.0, 4.0]], (5, 1))
    np.testing.assert_allclose(smooth(still, np.arange(5)), still)
    jump = np.concatenate([still, still + 10])
    np.testing.assert_allclose(smooth(jump, np.array([0, 1, 2, 3, 4, 9, 10, 11, 12, 13])), jump)
    assert not np.allclose(smooth(jump, np.arange(10)), jump)


def test_shrinking_averages_and_keeps_the_place():
    image = np.zeros((90, 120, 3), np.uint8)
    image[:, 60:] = 200
    small = resize(image, 40, 30)
    assert small.shape == (30, 40, 3)
    assert small[:, :19].max() == 0
    assert small[:, 21:].min() == 200
    noise = np.random.default_rng(0).integers(0, 255, (512, 512, 3), dtype=np.uint8)
    assert resize(noise, 32, 32).std() < 10


def test_a_long_shot_after_many_short_ones_is_followed():
    places = [20, 60, 100, 140]
    frames = [[[place, place, 30, 30]] for place in places for _ in range(8)]
    frames += [[[160, 20, 30, 30]]] * 60
    tracker = FaceTracker(script := Script(frames), SETTINGS)
    for index in range(len(frames)):
        script.next()
        tracker.see(np.zeros((200, 200, 3), np.uint8), index / 6)
    assert len(tracker.finish().crops) == 60
