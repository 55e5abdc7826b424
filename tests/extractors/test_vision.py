import hashlib
import subprocess
import sys

import cv2
import numpy as np
import pytest

from emi_ray.errors import ClipError
from emi_ray.extractors.base import Features
from emi_ray.extractors.builtin.image.texture import binary_patterns, gradient_histograms, low_frequencies
from emi_ray.extractors.builtin.vision import Appearance
from emi_ray.media.clip import DecodedClip, Faces

EXTRACTOR = Appearance(Appearance.Settings())
NAMES = EXTRACTOR.feature_names()


def face(smile: float = 0.0, opening: float = 0.0, size: int = 224) -> np.ndarray:
    """A drawn face, its mouth curved by ``smile`` and opened by ``opening``, (size, size, 3) uint8 RGB."""
    picture = np.full((224, 224, 3), (60, 120, 180), np.uint8)
    cv2.ellipse(picture, (112, 122), (70, 92), 0, 0, 360, (224, 180, 150), -1)
    for x in (85, 139):
        cv2.ellipse(picture, (x, 95), (13, 7), 0, 0, 360, (250, 250, 250), -1)
        cv2.circle(picture, (x, 95), 6, (40, 30, 20), -1)
        cv2.line(picture, (x - 14, 78), (x + 14, 78), (60, 40, 30), 4)
    corners = [(80, 165 - int(14 * smile)), (112, 165 + int(10 * smile)), (144, 165 - int(14 * smile))]
    cv2.polylines(picture, [np.array(corners)], False, (150, 50, 60), 5)
    if opening:
        cv2.ellipse(picture, (112, 166), (20, int(18 * opening)), 0, 0, 360, (40, 10, 10), -1)
    return cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)


def clip(crops: np.ndarray) -> DecodedClip:
    count = len(crops)
    boxes, times = np.full((count, 4), 0.3, np.float32), np.arange(count, dtype=np.float32) / 6
    return DecodedClip("a", faces=Faces(crops, boxes, times, np.ones(count, bool), np.arange(count) == 0))


def extract(*crops: np.ndarray) -> Features:
    return EXTRACTOR.extract([clip(np.stack(crops))])[0]


def column(features: Features, name: str) -> np.ndarray:
    return features.values[:, NAMES.index(name)]


def noise(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 224, 224, 3)).astype(np.uint8)


def test_each_crop_is_one_step_with_its_timestamp():
    features = extract(*noise(7))
    assert features.values.shape == (7, EXTRACTOR.feature_dim) == (7, Appearance.DIM)
    assert features.timestamps_s.tolist() == pytest.approx([step / 6 for step in range(7)])
    assert np.isfinite(features.values.astype(np.float16)).all()


def test_every_dimension_has_one_name():
    assert len(set(NAMES)) == EXTRACTOR.feature_dim


@pytest.mark.parametrize("size", [16, 112, 500])
@pytest.mark.parametrize("face_share", [0.3, 0.68, 1.0])
def test_crops_of_any_size_and_windows_of_any_share_work(size, face_share):
    extractor = Appearance(Appearance.Settings(face_share=face_share))
    values = extractor.extract([clip(face(size=size)[None])])[0].values
    assert values.shape == (1, Appearance.DIM)
    assert np.isfinite(values).all()


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_a_flat_picture_gives_finite_values(grey):
    values = extract(np.full((224, 224, 3), grey, np.uint8)).values
    assert np.isfinite(values.astype(np.float16)).all()
    assert not column(extract(np.full((224, 224, 3), grey, np.uint8)), "deviation_0").any()


def test_values_are_of_order_one():
    values = extract(face(), face(1), face(opening=1)).values
    assert np.percentile(np.abs(values), 99) < 4
    assert 0.2 < values.std() < 2


def test_an_open_mouth_is_darker_and_changes_the_mouth_most():
    shut, wide = extract(face()), extract(face(opening=1))
    assert column(wide, "mouth_dark")[0] < column(shut, "mouth_dark")[0] - 0.5
    moved = np.abs(wide.values - shut.values)[0]
    part = {
        name: np.mean([m for m, n in zip(moved, NAMES, strict=True) if n.startswith(name)])
        for name in ("mouth_", "left_eye_", "brows_", "dct_mouth", "dct_eyes")
    }
    assert part["mouth_"] > 1.3 * max(part["left_eye_"], part["brows_"])
    assert part["dct_mouth"] > 2 * part["dct_eyes"]


def test_like_expressions_are_closer_than_unlike_ones():
    neutral, slight, broad = (extract(face(smile=smile)).values[0] for smile in (0, 0.2, 1))
    assert np.linalg.norm(slight - neutral) < np.linalg.norm(broad - neutral)


def test_deviation_tells_the_unusual_frame():
    features = extract(*[face()] * 6, face(smile=1, opening=1))
    deviation = features.values[:, NAMES.index("deviation_0") :].sum(axis=1)
    assert deviation[-1] > 1
    assert deviation[:-1] == pytest.approx(np.zeros(6), abs=1e-3)


def test_brightness_moves_quality_but_not_structure():
    dim = (face() * 0.6).astype(np.uint8)
    bright, dark = extract(face()), extract(dim)
    structure = [index for index, name in enumerate(NAMES) if name.startswith("dct_")]
    assert column(bright, "brightness")[0] > column(dark, "brightness")[0] + 0.5
    assert bright.values[:, structure] == pytest.approx(dark.values[:, structure], abs=0.1)


def test_a_blurred_face_is_less_sharp_and_a_turned_one_less_symmetric():
    turned = face().copy()
    turned[:, :112] = turned[:, :112] // 3
    assert column(extract(cv2.blur(face(), (9, 9))), "sharpness") < column(extract(face()), "sharpness")
    assert column(extract(turned), "symmetry") < column(extract(face()), "symmetry")


def test_the_other_clips_of_a_batch_change_nothing():
    clips = [clip(noise(3)), clip(noise(70, seed=1)), clip(face()[None])]
    together = [features.values for features in EXTRACTOR.extract(clips)]
    alone = [Appearance(Appearance.Settings()).extract([one])[0].values for one in clips]
    assert all(np.array_equal(one, other) for one, other in zip(together, alone, strict=True))


def test_another_process_gives_the_same_bits_whatever_its_threads():
    program = (
        "import hashlib, cv2; cv2.setNumThreads(1); import numpy as np; "
        "from emi_ray.extractors.builtin.vision import Appearance; "
        "from emi_ray.media.clip import DecodedClip, Faces; "
        "crops = np.random.default_rng(0).integers(0, 256, (5, 224, 224, 3)).astype(np.uint8); "
        "faces = Faces(crops, np.zeros((5, 4)), np.arange(5) / 6, np.ones(5, bool), np.arange(5) == 0); "
        "features = Appearance(Appearance.Settings()).extract([DecodedClip('a', faces=faces)])[0]; "
        "print(hashlib.blake2b(features.values.tobytes()).hexdigest())"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == hashlib.blake2b(extract(*noise(5)).values.tobytes()).hexdigest()


def test_a_clip_without_a_crop_is_refused():
    with pytest.raises(ClipError, match="no face crop"):
        EXTRACTOR.extract([clip(np.zeros((0, 224, 224, 3), np.uint8))])


def test_gradients_of_stripes_lie_across_them():
    upright = np.tile((np.arange(96) // 4 % 2 * 200).astype(np.uint8), (96, 1))
    histograms = gradient_histograms(np.stack([upright, upright.T])).reshape(2, -1, 8).mean(axis=1)
    assert histograms[0].argmax() != histograms[1].argmax()
    assert (histograms.max(axis=1) > 2 * np.median(histograms, axis=1)).all()


def test_local_patterns_of_a_flat_picture_are_all_flat_and_sum_to_one():
    flat = binary_patterns(np.full((2, 96, 96), 90, np.uint8), 3).reshape(2, 9, 10)
    rough = binary_patterns(noise(2)[:, :96, :96, 0], 3).reshape(2, 9, 10)
    assert (flat[..., 0] == 1).all()
    assert rough.sum(axis=2) == pytest.approx(np.ones((2, 9)))


def test_low_frequencies_see_a_wave_of_their_own():
    wave = np.cos(np.pi * 3 * (np.arange(32) + 0.5) / 32) * np.sqrt(2)
    coefficients = low_frequencies(np.tile(wave, (1, 32, 1)), 8)[0]
    assert np.flatnonzero(np.abs(coefficients) > 1e-4).tolist() == [2]
    assert coefficients[2] == pytest.approx(4, abs=1e-4)
