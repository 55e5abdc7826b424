"""Detection of faces in one picture."""

import cv2
import numpy as np
import pytest

from emi_ray.config import FaceSettings, MediaSettings
from emi_ray.errors import UserError
from emi_ray.media import yunet
from emi_ray.media.detection import FaceFinder, build_finder, iou
from emi_ray.media.yunet import settle_faces


class BrightSquare:
    """A detector that knows one kind of face: the bright part of a dark picture."""

    def __init__(self):
        self.sizes = []

    def find(self, image, min_px):
        self.sizes.append(image.shape[:2])
        x, y, width, height = cv2.boundingRect((image[..., 0] > 128).astype(np.uint8))
        found = width > 0 and min_px <= max(width, height)
        return np.array([[x, y, width, height, 0.5]] if found else [], np.float32).reshape(-1, 5)


def picture(x, y, side, height=480, width=640):
    image = np.zeros((height, width, 3), np.uint8)
    image[y : y + side, x : x + side] = 255
    return image


def test_boxes_are_in_pixels_of_the_frame_whatever_the_size_of_the_search():
    detector = BrightSquare()
    finder = FaceFinder(detector, 160)
    faces = finder.survey(finder.view(picture(200, 120, 160)))
    np.testing.assert_allclose(faces, [[200, 120, 160, 160, 0.5]], atol=4)
    assert detector.sizes == [(120, 160)]


def test_no_face_is_found_in_noise_nor_in_a_single_pixel():
    finder = build_finder(FaceSettings(detector="haar"))
    noise = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    assert finder.survey(finder.view(noise)).shape == (0, 5)
    assert finder.survey(finder.view(noise[:1, :1])).shape == (0, 5)


def test_overlap_is_one_for_the_same_box_and_zero_for_distant_ones():
    a, b = np.array([0, 0, 10, 10]), np.array([5, 0, 10, 10])
    assert iou(a, a) == 1
    assert iou(a, b) == pytest.approx(1 / 3)
    assert iou(a, b + 100) == 0


def test_yunet_without_its_weights_is_the_users_mistake(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(yunet, "hub_answers", lambda: False)
    missing = (None, "0" * 40, "the hub does not answer"), ("gone.onnx", None, r"gone\.onnx does not exist")
    for model, revision, reason in missing:
        with pytest.raises(UserError, match=f"yunet_model.*{reason}.*media.faces.detector=haar"):
            build_finder(FaceSettings(detector="yunet", yunet_model=model, yunet_revision=revision))
    with pytest.raises(UserError, match="neither an id of the hub nor a file"):
        settle_faces(FaceSettings(detector="yunet", yunet_model="a/b/c"))
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no network")
    with pytest.raises(UserError, match="OpenCV cannot load it"):
        build_finder(FaceSettings(detector="yunet", yunet_model=str(broken)))


class Net:
    """Stands for YuNet: one face whose eyes and mouth are turned by 45 degrees, and one without a turn."""

    def setInputSize(self, size):
        self.size = size

    def detect(self, image):
        assert image.shape[1::-1] == self.size
        turned = [0, 0, 10, 10, 0, 0, 0, 10, 10, 20]
        level = [0, 0, 10, 0, 5, 5, 0, 10, 10, 10]
        return 1, np.array([[10, 20, 30, 40, *turned, 0.9], [50, 20, 30, 40, *level, 0.9]], np.float32)


def test_yunet_boxes_and_turns_are_read_as_opencv_gives_them(tmp_path, monkeypatch):
    monkeypatch.setattr(cv2.FaceDetectorYN, "create", lambda *args: Net())
    (tmp_path / "yunet.onnx").write_bytes(b"stands for the model")
    finder = build_finder(FaceSettings(detector="yunet", yunet_model=str(tmp_path / "yunet.onnx")))
    faces = finder.survey(finder.view(np.zeros((240, 640, 3), np.uint8)))
    np.testing.assert_allclose(faces, [[20, 40, 60, 80, np.pi / 4], [100, 40, 60, 80, 0]], atol=1e-6)


def test_a_detectors_weights_are_known_by_their_content_wherever_they_lie(tmp_path):
    deciding = []
    for name, content in (("a.onnx", b"one"), ("b.onnx", b"one"), ("c.onnx", b"two")):
        (tmp_path / name).write_bytes(content)
        faces = settle_faces(FaceSettings(detector="yunet", yunet_model=str(tmp_path / name)))
        deciding.append(MediaSettings(faces=faces).deciding(["faces"])["faces"])
    assert deciding[0] == deciding[1] != deciding[2]
    (tmp_path / "c.onnx").write_bytes(b"three")
    with pytest.raises(UserError, match="does not match yunet_revision"):
        settle_faces(faces)


def test_an_id_of_the_hub_is_pinned_to_the_commit_that_the_cache_holds(tmp_path, monkeypatch):
    commit, snapshots = "0123456789abcdef" * 2 + "01234567", tmp_path / "models--opencv--face_detection_yunet"
    (snapshots / "snapshots" / commit).mkdir(parents=True)
    (snapshots / "snapshots" / commit / yunet.FILE).write_bytes(b"model")
    (snapshots / "refs").mkdir()
    (snapshots / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    settled = settle_faces(FaceSettings())
    assert (settled.detector, settled.yunet_model, settled.yunet_revision) == ("yunet", yunet.HUB_ID, commit)
    assert settle_faces(settled) == settled
    assert settled.deciding()["yunet_revision"] == commit


def test_auto_is_haar_without_weights_and_asks_no_hub(monkeypatch):
    monkeypatch.setattr(yunet, "_cached", lambda settings: None)
    monkeypatch.setattr(yunet, "hub_answers", lambda: pytest.fail("the hub was asked"))
    settled = settle_faces(FaceSettings())
    assert settled.detector == "haar"
    assert not any(key.startswith("yunet") for key in settled.deciding())
    with pytest.raises(UserError, match="upright = true needs the landmarks of YuNet"):
        settle_faces(FaceSettings(upright=True))


def test_what_was_made_with_a_settled_detector_fits_the_open_setting_and_can_be_made_again(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"one")
    wanted = FaceSettings(yunet_model=str(tmp_path / "model.onnx"))
    made = settle_faces(wanted).deciding()
    assert wanted.fits(made)
    assert not FaceSettings(detector="haar").fits(made)
    assert not wanted.model_copy(update={"margin": 0.1}).fits(made)
    assert settle_faces(wanted.as_made(made)).deciding() == made
    haar = FaceSettings(detector="haar").deciding()
    assert settle_faces(wanted.as_made(haar)).deciding() == haar
