"""Face crops that are provided as files."""

import struct
import zlib

import cv2
import numpy as np
import pytest

from emi_ray.config import MediaSettings
from emi_ray.media.decode import decode_clip
from emi_ray.media.faces import read_ready_crops
from emi_ray.media.source import ClipSource, UnreadableError


def write_image(path, brightness, height=20, width=20):
    cv2.imwrite(str(path), np.full((height, width, 3), brightness, np.uint8))


def test_crops_are_taken_in_the_order_of_their_numbers_and_nothing_else_is(tmp_path):
    for number in (10, 2, 1):
        write_image(tmp_path / f"{number}.jpg", 20 * number)
    (tmp_path / "Thumbs.db").write_bytes(b"\0")
    (tmp_path / "7.txt").write_text("no image")
    (tmp_path / "3.jpg").mkdir()
    faces, counts = read_ready_crops(str(tmp_path), 16, 100)
    assert faces.crops.shape == (3, 16, 16, 3)
    np.testing.assert_allclose(faces.crops.mean(axis=(1, 2, 3)), [20, 40, 200], atol=1)
    np.testing.assert_allclose(faces.timestamps_s, [0, 1 / 6, 2 / 6], atol=1e-6)
    assert np.isnan(faces.boxes).all()
    assert faces.detected.all()
    assert faces.starts.tolist() == [True, False, False]
    assert counts == {"frames_with_face": 3, "images_unreadable": 0}


def test_a_picture_over_which_opencv_raises_costs_only_itself(tmp_path):
    write_image(tmp_path / "1.png", 20)
    header = b"IHDR" + struct.pack(">IIBBBBB", 2**30, 2**30, 8, 2, 0, 0, 0)
    huge = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (tmp_path / "2.png").write_bytes(huge + bytes(64))
    _, counts = read_ready_crops(str(tmp_path), 16, 10)
    assert counts == {"frames_with_face": 1, "images_unreadable": 1}


def test_crops_are_rgb(tmp_path):
    red_in_bgr = np.zeros((8, 8, 3), np.uint8)
    red_in_bgr[..., 2] = 200
    cv2.imwrite(str(tmp_path / "1.png"), red_in_bgr)
    faces, _ = read_ready_crops(str(tmp_path), 16, 10)
    np.testing.assert_array_equal(faces.crops[0, 0, 0], [200, 0, 0])


def test_a_crop_that_is_not_square_keeps_its_proportions(tmp_path):
    image = np.zeros((40, 20, 3), np.uint8)
    image[10:30, 5:15] = 255
    cv2.imwrite(str(tmp_path / "1.png"), image)
    faces, _ = read_ready_crops(str(tmp_path), 40, 10)
    white = faces.crops[0, ..., 0] > 128
    assert white.any(axis=1).sum() == 2 * white.any(axis=0).sum() == 20


def test_an_unreadable_crop_leaves_its_time_empty(tmp_path):
    write_image(tmp_path / "1.jpg", 90)
    (tmp_path / "2.jpg").write_bytes(b"broken")
    (tmp_path / "3.jpg").write_bytes(b"")
    write_image(tmp_path / "4.jpg", 90)
    faces, counts = read_ready_crops(str(tmp_path), 16, 10)
    np.testing.assert_allclose(faces.timestamps_s, [0, 0.5])
    assert counts == {"frames_with_face": 2, "images_unreadable": 2}


@pytest.mark.parametrize(("number", "begins"), [(8, False), (9, True)])
def test_ready_crops_are_one_run_unless_more_than_a_second_is_missing(tmp_path, number, begins):
    for name in range(1, number):
        (tmp_path / f"{name}.jpg").write_bytes(b"broken")
    for name in (1, 2, number):
        write_image(tmp_path / f"{name}.jpg", 90)
    assert read_ready_crops(str(tmp_path), 16, 10)[0].starts.tolist() == [True, False, begins]


def test_crops_beyond_the_cap_are_left_out(tmp_path):
    for number in range(5):
        write_image(tmp_path / f"{number}.jpg", 90)
    assert len(read_ready_crops(str(tmp_path), 16, 3)[0].crops) == 3


def test_ready_crops_spare_the_video(tmp_path):
    write_image(tmp_path / "1.jpg", 90)
    source = ClipSource("a", video="gone.mp4", faces_dir=str(tmp_path))
    decoded = decode_clip(source, MediaSettings(), frozenset({"faces"}))
    assert decoded.faces.crops.shape == (1, 224, 224, 3)
    assert not decoded.failed


def test_a_folder_that_is_not_there_fails_and_an_empty_one_is_missing(tmp_path):
    with pytest.raises(UnreadableError, match="folder not found"):
        read_ready_crops(str(tmp_path / "gone"), 16, 10)

    def decoded(folder):
        return decode_clip(ClipSource("a", faces_dir=str(folder)), MediaSettings(), frozenset({"faces"}))

    assert decoded(tmp_path / "gone").failed["faces"].startswith("folder not found")
    assert decoded(tmp_path).missing["faces"].startswith("the folder of face images is empty")
    (tmp_path / "1.jpg").write_bytes(b"broken")
    assert decoded(tmp_path).failed["faces"].startswith("none of 1 face images can be read")
