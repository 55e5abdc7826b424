"""Facts about finding faces in one picture."""

import cv2
import numpy as np
import pytest

from emi_ray.config import FaceSettings, MediaSettings
from emi_ray.errors import UserError
from emi_ray.media.detection import FaceFinder, build_finder, iou


class BrightSquare:
    """A detector that knows one kind of face: the bright part of a dark picture."""

    def __init__(self):
        self.sizes = []

    def find(self, image, min_px, max_px):
        self.sizes.append(image.shape[:2])
        x, y, width, height = cv2.boundingRect((image[..., 0] > 128).astype(np.uint8))
        found = width > 0 and min_px <= max(width, height) <= max_px
        return np.array([[x, y, width, height]] if found else [], np.float32).reshape(-1, 4)


def picture(x, y, side, height=480, width=640):
    image = np.zeros((height, width, 3), np.uint8)
    image[y : y + side, x : x + side] = 255
    return image


def test_boxes_are_in_pixels_of_the_frame_whatever_the_size_of_the_search():
    detector = BrightSquare()
    boxes = FaceFinder(detector, 160).survey(picture(200, 120, 160))
    np.testing.assert_allclose(boxes, [[200, 120, 160, 160]], atol=4)
    assert detector.sizes == [(120, 160)]


def test_near_searches_only_the_surroundings():
    detector = BrightSquare()
    box = FaceFinder(detector, 640).near(picture(210, 130, 160), np.array([200, 120, 160, 160], np.float32))
    np.testing.assert_allclose(box, [210, 130, 160, 160])
    assert max(detector.sizes[0]) < 300


def test_near_finds_nothing_where_the_face_is_gone_or_of_another_size():
    finder = FaceFinder(BrightSquare(), 640)
    box = np.array([200, 120, 160, 160], np.float32)
    assert finder.near(picture(0, 0, 20), box) is None
    assert finder.near(picture(260, 180, 40), box) is None


def test_no_face_is_found_in_noise_nor_in_a_single_pixel():
    finder = build_finder(FaceSettings())
    noise = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    assert finder.survey(noise).shape == (0, 4)
    assert finder.survey(noise[:1, :1]).shape == (0, 4)


def test_overlap_is_one_for_the_same_box_and_zero_for_distant_ones():
    a, b = np.array([0, 0, 10, 10]), np.array([5, 0, 10, 10])
    assert iou(a, a) == 1
    assert iou(a, b) == pytest.approx(1 / 3)
    assert iou(a, b + 100) == 0


def test_yunet_without_its_model_is_the_users_mistake(tmp_path):
    with pytest.raises(UserError, match=r"no model file is given.*media\.faces\.yunet_model"):
        build_finder(FaceSettings(detector="yunet"))
    with pytest.raises(UserError, match=r"gone\.onnx is not there"):
        build_finder(FaceSettings(detector="yunet", yunet_model="gone.onnx"))
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no network")
    with pytest.raises(UserError, match="OpenCV cannot load it"):
        build_finder(FaceSettings(detector="yunet", yunet_model=str(broken)))


def test_yunet_boxes_are_read_as_opencv_gives_them(tmp_path, monkeypatch):
    class Net:
        def setInputSize(self, size):
            self.size = size

        def detect(self, image):
            assert image.shape[1::-1] == self.size
            return 1, np.array([[10, 20, 30, 40, *range(10), 0.9]], np.float32)

    monkeypatch.setattr(cv2.FaceDetectorYN, "create", lambda *args: Net())
    (tmp_path / "yunet.onnx").write_bytes(b"stands for the model")
    finder = build_finder(FaceSettings(detector="yunet", yunet_model=str(tmp_path / "yunet.onnx")))
    boxes = finder.survey(np.zeros((240, 640, 3), np.uint8))
    np.testing.assert_allclose(boxes, [[20, 40, 60, 80]])


def test_a_detector_model_is_known_by_its_content_wherever_it_lies(tmp_path):
    digests = []
    for name, content in (("a.onnx", b"one"), ("b.onnx", b"one"), ("c.onnx", b"two")):
        (tmp_path / name).write_bytes(content)
        faces = FaceSettings(detector="yunet", yunet_model=str(tmp_path / name))
        digests.append(MediaSettings(faces=faces).deciding(["faces"])["faces"]["yunet_model"])
    assert digests[0] == digests[1] != digests[2]
