import hashlib
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest

from emi_ray.errors import ClipError
from emi_ray.extractors.base import Features
from emi_ray.extractors.builtin.motion import SUMMARY_NAMES, Flow, MotionSummary
from emi_ray.media.clip import DecodedClip, Faces

FLOW, SUMMARY = Flow(Flow.Settings()), MotionSummary(MotionSummary.Settings())
NAMES = FLOW.feature_names()
PLACES = np.array([[0.3, 0.3, 0.2, 0.3], [0.6, 0.2, 0.3, 0.45]])
BOX = [index for index, name in enumerate(NAMES) if name.startswith("box_")]


def texture(size: int = 300, seed: int = 0) -> np.ndarray:
    """Smooth random texture (size, size, 3) uint8."""
    coarse = np.random.default_rng(seed).normal(size=(size, size))
    spectrum = np.fft.rfft2(coarse)
    rows, columns = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]
    smooth = np.fft.irfft2(spectrum * np.exp(-((rows**2 + columns**2) / (2 * 0.03**2))))
    scaled = np.clip(128 + 40 * smooth / smooth.std(), 0, 255).astype(np.uint8)
    return np.repeat(scaled[..., None], 3, axis=2)


def sliding(count: int, across: int, down: int) -> np.ndarray:
    """Crops in which the whole picture moves ``across`` and ``down`` pixels a frame."""
    whole = texture(600)
    corners = [(150 - down * step, 150 - across * step) for step in range(count)]
    return np.stack([whole[top : top + 224, left : left + 224] for top, left in corners])


def dot(positions: list[tuple[int, int]]) -> np.ndarray:
    """A bright blurred dot at each (x, y) on a still texture."""
    y, x = np.mgrid[:224, :224]
    still = texture()[:224, :224].astype(float) * 0.4
    spots = [180 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * 12**2)) for px, py in positions]
    return np.stack([np.clip(still + spot[..., None], 0, 255).astype(np.uint8) for spot in spots])


def clip(
    crops: np.ndarray, boxes: np.ndarray | None = None, rate_hz: float = 6.0, cuts: Sequence[int] = ()
) -> DecodedClip:
    count, starts = len(crops), np.isin(np.arange(len(crops)), [0, *cuts])
    boxes = np.tile(np.array([0.3, 0.3, 0.2, 0.3]), (count, 1)) if boxes is None else boxes
    times = (np.arange(count) / rate_hz).astype(np.float32)
    return DecodedClip("a", faces=Faces(crops, boxes.astype(np.float32), times, np.ones(count, bool), starts))


def flow(crops: np.ndarray, boxes: np.ndarray | None = None, rate_hz: float = 6.0) -> Features:
    return FLOW.extract([clip(crops, boxes, rate_hz)])[0]


def column(features: Features, name: str) -> np.ndarray:
    return features.values[:, NAMES.index(name)]


def summary(crops: np.ndarray, rate_hz: float = 6.0) -> dict[str, float]:
    return dict(zip(SUMMARY_NAMES, SUMMARY.extract([clip(crops, None, rate_hz)])[0].values[0], strict=True))


def test_each_pair_of_frames_is_one_step_stamped_in_its_middle():
    features = flow(sliding(5, 2, 0))
    assert features.values.shape == (4, FLOW.feature_dim) == (4, Flow.DIM)
    assert features.timestamps_s == pytest.approx((np.arange(4) + 0.5) / 6)
    assert np.isfinite(features.values.astype(np.float16)).all()


def test_every_dimension_has_one_name():
    assert len(set(NAMES)) == FLOW.feature_dim
    assert SUMMARY.feature_names() == list(SUMMARY_NAMES)
    assert len(SUMMARY_NAMES) == SUMMARY.feature_dim == MotionSummary.DIM


@pytest.mark.parametrize("extractor", [FLOW, SUMMARY])
def test_a_single_frame_gives_one_step_of_zeros_at_its_time(extractor):
    (features,) = extractor.extract([clip(sliding(1, 0, 0))])
    assert features.values.shape == (1, extractor.feature_dim)
    assert not features.values.any()
    assert features.timestamps_s.tolist() == [0.0]


@pytest.mark.parametrize("extractor", [FLOW, SUMMARY])
def test_a_clip_without_a_crop_is_refused(extractor):
    with pytest.raises(ClipError, match="no face crop"):
        extractor.extract([clip(np.zeros((0, 224, 224, 3), np.uint8))])


@pytest.mark.parametrize(
    ("across", "down", "name", "sign"),
    [
        (5, 0, "shift_across", 1),
        (-5, 0, "shift_across", -1),
        (0, 5, "shift_down", 1),
        (0, -5, "shift_down", -1),
    ],
)
def test_a_moving_picture_shifts_in_its_direction(across, down, name, sign):
    moving = column(flow(sliding(4, across, down)), name)
    other = column(flow(sliding(4, across, down)), "shift_down" if name == "shift_across" else "shift_across")
    assert (sign * moving > 1).all()
    assert (np.abs(other) < 0.3).all()


def test_speed_is_a_second_whatever_the_frame_rate():
    slow, fast = flow(sliding(4, 2, 0), rate_hz=6.0), flow(sliding(4, 4, 0), rate_hz=3.0)
    assert np.sinh(column(slow, "shift_across")) == pytest.approx(
        np.sinh(column(fast, "shift_across")), rel=0.1
    )


def test_the_measured_shift_is_right_in_size():
    """5 px of 224 a frame at 6 Hz, seen through a window of 0.68 of the crop, in units of 0.05 a second."""
    expected = 5 / (224 * 0.68) * 6 / 0.05
    assert np.sinh(column(flow(sliding(4, 5, 0)), "shift_across")) == pytest.approx(
        np.full(3, expected), rel=0.15
    )


def test_a_moving_dot_moves_its_own_cell_in_its_direction():
    """Cell 5 is the second of the second row; the dot crosses it to the right."""
    values = flow(dot([(82 + 3 * step, 100) for step in range(4)])).values
    across = values[:, NAMES.index("across_0") : NAMES.index("across_0") + 16].mean(axis=0)
    assert across.argmax() == 5
    assert across[5] > 0.5


def test_a_zoom_is_growth_and_not_shift():
    whole = texture(600)
    y, x = np.mgrid[:224, :224] - 112
    crops = np.stack(
        [
            whole[np.rint(300 + y / zoom).astype(int), np.rint(300 + x / zoom).astype(int)]
            for zoom in (1, 1.06, 1.12)
        ]
    )
    features = flow(crops)
    assert (column(features, "growth") > 1).all()
    assert (column(features, "growth") > 2 * np.abs(column(features, "shift_across"))).all()


def test_a_still_clip_does_not_move():
    features = flow(np.repeat(texture()[None, :224, :224], 5, axis=0))
    moving = [
        index for index, name in enumerate(NAMES) if name not in ("box_x", "box_y", "box_size", "box_known")
    ]
    assert np.abs(features.values[:, moving]).max() < 0.5
    assert column(features, "speed_mean").max() < 0.01


def test_boxes_tell_direction_growth_and_speed():
    boxes = np.array(
        [[0.3, 0.3, 0.2, 0.3], [0.32, 0.3, 0.2, 0.3], [0.34, 0.3, 0.22, 0.33], [0.33, 0.3, 0.22, 0.33]]
    )
    features = flow(sliding(4, 0, 0), boxes)
    assert column(features, "box_across")[0] == pytest.approx(np.arcsinh(4 * 0.1 * 6), rel=1e-4)
    assert column(features, "box_across")[2] < 0
    assert column(features, "box_growth")[1] > 0 == column(features, "box_growth")[0]
    assert column(features, "box_speed")[0] == column(features, "box_across")[0]
    assert column(features, "box_acceleration")[0] == 0 < column(features, "box_acceleration")[2]


def test_unknown_boxes_are_zeros_and_leave_the_flow_alone():
    crops = sliding(4, 3, 0)
    ready, tracked = flow(crops, np.full((4, 4), np.nan)), flow(crops)
    others = np.setdiff1d(np.arange(len(NAMES)), BOX)
    assert not ready.values[:, BOX].any()
    assert np.array_equal(ready.values[:, others], tracked.values[:, others])


def test_one_unknown_box_spoils_only_its_own_steps():
    boxes = np.tile(np.array([0.3, 0.3, 0.2, 0.3]), (5, 1))
    boxes[1] = np.nan
    assert column(flow(sliding(5, 0, 0), boxes), "box_known").tolist() == [0, 0, 1, 1]


def test_equal_or_reversed_timestamps_stay_finite():
    crops = sliding(4, 3, 0)
    times = np.array([0, 0, -1, 50], np.float32)
    faces = Faces(crops, np.full((4, 4), np.nan), times, np.ones(4, bool), np.arange(4) == 0)
    assert np.isfinite(FLOW.extract([DecodedClip("a", faces=faces)])[0].values).all()


def test_long_clips_are_cut_into_chunks_without_a_seam():
    crops = sliding(80, 1, 0)
    whole, tail = flow(crops).values, flow(crops[60:]).values
    single = [index for index, name in enumerate(NAMES) if index < NAMES.index("speed_around")]
    assert whole[61:, single] == pytest.approx(tail[1:, single], abs=1e-3)


def test_summary_of_steady_motion_has_its_direction_and_no_bursts():
    steady = summary(sliding(6, 5, 0))
    assert steady["motion_angle_mean"] == pytest.approx(0, abs=0.1)
    assert steady["motion_angle_std"] < 0.3
    assert steady["motion_mag_mean"] == pytest.approx(5 / (224 * 0.68) * 6 / 0.1, rel=0.15)
    assert steady["motion_mag_max"] >= steady["motion_mag_mean"] > steady["motion_mag_std"]
    assert summary(sliding(6, 0, 5))["motion_angle_mean"] == pytest.approx(np.pi / 2, abs=0.1)


def test_summary_energy_is_mean_square_of_the_magnitude():
    values = summary(sliding(6, 3, 1))
    assert values["motion_energy"] == pytest.approx(
        values["motion_mag_mean"] ** 2 + values["motion_mag_std"] ** 2, rel=1e-4
    )


def test_a_burst_is_counted_and_spreads_the_level_over_time():
    still = sliding(1, 0, 0)
    burst = np.concatenate(
        [np.repeat(still, 5, axis=0), sliding(2, 6, 0)[1:], np.repeat(sliding(2, 6, 0)[1:], 4, 0)]
    )
    values = summary(burst)
    assert values["motion_burst_ratio"] == pytest.approx(1 / 9)
    assert values["motion_mag_temporal_std"] > values["motion_mag_mean"]


def test_each_run_is_described_as_a_clip_of_its_own():
    """One speaker before and after a cut: elsewhere, larger, in another light."""
    shots = [sliding(9, 1, 0), 255 - sliding(8, 0, 2)]
    boxes = [np.tile(place, (len(shot), 1)) for place, shot in zip(PLACES, shots, strict=True)]
    (features,) = FLOW.extract([clip(np.concatenate(shots), np.concatenate(boxes), cuts=[9])])
    alone = [flow(shot, boxes_).values for shot, boxes_ in zip(shots, boxes, strict=True)]
    # Durations of steps differ in the last digits, because the second shot's timestamps are larger here.
    assert features.values == pytest.approx(np.concatenate(alone), abs=1e-4)
    assert features.timestamps_s * 6 == pytest.approx(np.delete(np.arange(16), 8) + 0.5)


@pytest.mark.parametrize("cuts", [[], [6]])
def test_a_cut_is_movement_unless_it_starts_a_run(cuts):
    still = np.repeat(np.stack([texture()[:224, :224], 255 - texture(seed=1)[:224, :224]]), 6, axis=0)
    cut = clip(still, np.repeat(PLACES, 6, axis=0), cuts=cuts)
    features, (values,) = FLOW.extract([cut])[0], SUMMARY.extract([cut])[0].values
    for name in ("speed_mean", "change", "box_speed", "box_growth", "box_acceleration", "burst"):
        assert (column(features, name).max() > 0.5) == (not cuts)
    assert (values[SUMMARY_NAMES.index("motion_energy")] > 0.1) == (not cuts)


def test_a_cut_is_no_standstill_in_the_summary_either():
    shot = sliding(6, 5, 0)
    (cut,) = SUMMARY.extract([clip(np.concatenate([shot, shot]), cuts=[6])])
    assert cut.values[0] == pytest.approx(list(summary(shot).values()), rel=1e-5, abs=1e-6)
    assert cut.timestamps_s == pytest.approx([11 / 12])


@pytest.mark.parametrize("extractor", [FLOW, SUMMARY])
def test_a_clip_of_runs_of_single_frames_has_no_motion(extractor):
    with pytest.raises(ClipError, match="no movement to measure") as problem:
        extractor.extract([clip(sliding(3, 5, 0), cuts=[1, 2])])
    assert problem.value.stage == "missing"


def test_the_other_clips_of_a_batch_change_nothing():
    clips = [clip(sliding(3, 1, 0)), clip(dot([(60, 60), (70, 60)])), clip(sliding(1, 0, 0))]
    for extractor in (FLOW, SUMMARY):
        together = [features.values for features in extractor.extract(clips)]
        alone = [extractor.extract([one])[0].values for one in clips]
        assert all(np.array_equal(one, other) for one, other in zip(together, alone, strict=True))


def test_another_process_gives_the_same_bits_whatever_its_threads():
    program = (
        "import hashlib, cv2; cv2.setNumThreads(1); import numpy as np; "
        "from emi_ray.extractors.builtin.motion import Flow, MotionSummary; "
        "from emi_ray.media.clip import DecodedClip, Faces; "
        "crops = np.random.default_rng(0).integers(0, 256, (5, 224, 224, 3)).astype(np.uint8); "
        "boxes, starts = np.full((5, 4), np.nan), np.arange(5) == 0; "
        "faces = Faces(crops, boxes, np.arange(5) / 6, np.ones(5, bool), starts); "
        "kinds = (Flow, MotionSummary); clip = DecodedClip('a', faces=faces); "
        "values = [kind(kind.Settings()).extract([clip])[0].values.tobytes() for kind in kinds]; "
        "print(hashlib.blake2b(b''.join(values)).hexdigest())"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    crops = np.random.default_rng(0).integers(0, 256, (5, 224, 224, 3)).astype(np.uint8)
    boxes, starts = np.full((5, 4), np.nan), np.arange(5) == 0
    faces = Faces(crops, boxes, np.arange(5) / 6, np.ones(5, bool), starts)
    one = DecodedClip("a", faces=faces)
    values = [extractor.extract([one])[0].values.tobytes() for extractor in (FLOW, SUMMARY)]
    assert told.stdout.strip() == hashlib.blake2b(b"".join(values)).hexdigest()
