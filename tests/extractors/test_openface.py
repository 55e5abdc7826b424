"""OpenFace's CSV files, and the program that writes them."""

import os
from pathlib import Path

import numpy as np
import pytest

from emi_ray.config import ExtractorSettings, MediaSettings
from emi_ray.errors import ClipError, UserError
from emi_ray.extractors import specify
from emi_ray.extractors.external.openface import COLUMNS, OpenFace, OpenFaceSettings, read_openface
from emi_ray.media.clip import DecodedClip


def row(time: float, face: int = 0, confidence: float = 0.98, success: int = 1, first: float = 1.0) -> dict:
    measured = {name: first + index / 10 for index, name in enumerate(COLUMNS)}
    quality = {"timestamp": time, "confidence": confidence, "success": success}
    return {"frame": round(time * 30) + 1, "face_id": face, **quality, "AU28_c": 0.0, **measured}


def csv_text(rows: list[dict], separator: str = ", ", without: tuple[str, ...] = ()) -> str:
    names = [name for name in reversed(rows[0]) if name not in without]
    lines = [separator.join(str(values[name]) for name in names) for values in rows]
    return "\n".join([separator.join(names), *lines]) + "\n"


@pytest.mark.parametrize("separator", [", ", ","])
def test_both_headers_give_23_features_in_the_documented_order(separator):
    found = read_openface(csv_text([row(0.0), row(1 / 30, first=2.0)], separator))
    assert COLUMNS[0] == "AU01_r"
    assert COLUMNS[17:] == ("pose_Tx", "pose_Ty", "pose_Tz", "pose_Rx", "pose_Ry", "pose_Rz")
    np.testing.assert_allclose(found.values, np.array([[1.0], [2.0]]) + np.arange(23) / 10, rtol=1e-6)
    np.testing.assert_allclose(found.timestamps_s, [0, 1 / 30])
    assert not found.remarks


def test_a_file_without_face_ids_is_read():
    assert len(read_openface(csv_text([row(0.0)], without=("face_id",))).values) == 1


def test_frames_that_failed_are_dropped_and_the_others_keep_their_times():
    rows = [row(0.0), row(0.1, confidence=0.69), row(0.2, success=0), row(0.3, first=float("nan")), row(0.4)]
    found = read_openface(csv_text(rows))
    np.testing.assert_allclose(found.timestamps_s, [0.0, 0.4])
    assert found.remarks == ["3 frames were left out, in which OpenFace trusted no face"]


def test_the_face_with_the_most_confidence_in_all_is_taken():
    passer_by = [row(0.1, face=0, confidence=0.99, first=9.0)]
    speaker = [row(time, face=1, confidence=0.9, first=5.0) for time in (0.0, 0.1, 0.2)]
    found = read_openface(csv_text(passer_by + speaker))
    np.testing.assert_allclose(found.values[:, 0], [5.0, 5.0, 5.0])
    assert not found.remarks


def test_of_equally_confident_faces_the_lowest_id_is_taken():
    rows = [row(0.0, face=face, first=float(face)) for face in (2, 1)]
    np.testing.assert_allclose(read_openface(csv_text(rows)).values[:, 0], [1.0])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "lacks 26 columns"),
        (csv_text([row(0.0)], without=("AU05_r",)), r"lacks 1 columns \(first: AU05_r\)"),
        (csv_text([row(0.0, confidence=0.2), row(0.1, success=0)]), "no face in any of 2 frames"),
        (csv_text([row(0.0)]).splitlines()[0], "no face in any of 0 frames"),
    ],
)
def test_a_useless_file_is_refused_with_the_reason(text, reason):
    with pytest.raises(ClipError, match=reason):
        read_openface(text)


@pytest.fixture
def binary(tmp_path) -> Path:
    """A stand-in for FeatureExtraction that notes its arguments and copies a ready CSV."""
    (tmp_path / "ready.csv").write_text(csv_text([row(0.0), row(0.1)]))
    program = tmp_path / "FeatureExtraction"
    program.write_text(
        "#!/bin/sh\n"
        f'echo "$@" > {tmp_path}/arguments\n'
        'case "$2" in *bad.mp4) echo "cannot open" >&2; exit 3;; *slow.mp4) sleep 30;; esac\n'
        f'cp {tmp_path}/ready.csv "$4/$(basename "$2" .mp4).csv"\n'
    )
    program.chmod(0o755)
    return program


def video(folder: Path, name: str) -> DecodedClip:
    path = folder / name
    path.write_bytes(b"video")
    return DecodedClip(name, video=str(path))


def build(binary: Path, **settings: object) -> OpenFace:
    wanted = ExtractorSettings(name="openface", settings={"binary": str(binary), **settings})
    spec = specify("motion", wanted, MediaSettings())
    assert spec.needs == {"video"}
    return spec.build()


def test_a_binary_is_run_on_the_video_for_units_and_pose(binary, tmp_path):
    found = build(binary).extract([video(tmp_path, "clip.mp4")])[0]
    assert found.values.shape == (2, 23)
    arguments = (tmp_path / "arguments").read_text().split()
    assert arguments[:3] == ["-f", str(tmp_path / "clip.mp4"), "-out_dir"]
    assert arguments[4:] == ["-aus", "-pose"]
    assert not os.path.exists(arguments[3])


def test_a_binary_that_fails_or_hangs_costs_only_its_clip(binary, tmp_path):
    with pytest.raises(ClipError, match="ended with code 3: cannot open"):
        build(binary).extract([video(tmp_path, "bad.mp4")])
    with pytest.raises(ClipError, match=r"longer than 0\.2 s"):
        build(binary, time_limit_s=0.2).extract([video(tmp_path, "slow.mp4")])


def test_a_binary_that_is_missing_is_reported_before_the_run():
    settings = OpenFaceSettings(binary="/nowhere/FeatureExtraction")
    assert len(OpenFace.check(settings)) == 1
    with pytest.raises(UserError, match="is not a program"):
        OpenFace.resolve(settings)


def test_ready_files_and_the_binary_fill_the_same_store(binary):
    def of(**settings: object) -> str:
        wanted = ExtractorSettings(name="openface", settings=settings)
        return specify("motion", wanted, MediaSettings()).fingerprint

    assert of() == of(binary=str(binary), time_limit_s=5)
    assert of() != of(min_confidence=0.9)
