"""Ready crops, OpenFace CSVs and tables of features: steps in the order of time, nothing mixed, nothing twice."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from emi_ray.errors import ClipError, UserError
from emi_ray.exchange import import_features
from emi_ray.exchange.clips import match_ids
from emi_ray.exchange.tables import KeyedSource, ParquetSource
from emi_ray.extractors.external.openface import COLUMNS, read_openface
from emi_ray.media.crop_names import order_crops
from emi_ray.media.faces import read_ready_crops
from emi_ray.media.source import UnreadableError
from emi_ray.workspace import Workspace


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["10.jpg", "2.jpg", "1.png"], ["1.png", "2.jpg", "10.jpg"]),
        (["frame_10.jpg", "frame_9.jpg"], ["frame_9.jpg", "frame_10.jpg"]),
        (["f0010.jpg", "f0009.jpg"], ["f0009.jpg", "f0010.jpg"]),
        (["clip7-img10.png", "clip7-img9.png"], ["clip7-img9.png", "clip7-img10.png"]),
        (["10.5.jpg", "9.25.jpg"], ["9.25.jpg", "10.5.jpg"]),
        (["crop (10).jpg", "crop (9).jpg"], ["crop (9).jpg", "crop (10).jpg"]),
        (["2_0.jpg", "10_0.jpg", "1_0.jpg"], ["1_0.jpg", "2_0.jpg", "10_0.jpg"]),
        (["2_7.jpg", "10_3.jpg", "1_7.jpg"], ["1_7.jpg", "2_7.jpg", "10_3.jpg"]),
        (
            ["frame_det_00_000010.bmp", "frame_det_00_000009.bmp"],
            ["frame_det_00_000009.bmp", "frame_det_00_000010.bmp"],
        ),
        (["only.jpg"], ["only.jpg"]),
    ],
)
def test_crops_are_in_the_order_of_time_for_any_naming(names: list[str], expected: list[str]) -> None:
    assert order_crops(sorted(names)) == (expected, 0)


@pytest.mark.parametrize(
    "pattern",
    [
        "{frame}_{face}.jpg",
        "f{frame:04d}-face{face}.png",
        "face{face}_frame{frame}.jpg",
        "frame_det_{face:02d}_{frame:06d}.bmp",
    ],
)
def test_of_two_crops_a_frame_one_face_is_taken(pattern: str) -> None:
    frames = [1, 2, 9, 10, 11]
    speaker = [pattern.format(frame=frame, face=0) for frame in frames]
    others = [pattern.format(frame=frame, face=1) for frame in (2, 10)]
    assert order_crops(sorted(speaker + others)) == (speaker, 2)


def test_crops_of_another_face_are_left_out_and_counted(tmp_path: Path) -> None:
    for frame in range(1, 12):
        for face in range(2):
            cv2.imwrite(
                str(tmp_path / f"{frame}_{face}.png"),
                np.full((8, 8, 3), 20 * frame if face == 0 else 255, np.uint8),
            )
    faces, counts = read_ready_crops(str(tmp_path), 16, 100)
    assert faces is not None
    np.testing.assert_allclose(faces.crops[:, 0, 0, 0], [20 * frame for frame in range(1, 12)])
    np.testing.assert_allclose(faces.timestamps_s, np.arange(11) / 6, rtol=1e-6)
    assert counts["crops_of_other_faces"] == 11


@pytest.mark.parametrize(
    "names",
    [
        ["a.jpg", "b.jpg"],
        ["1.jpg", "cover.jpg", "2.jpg"],
        ["1.jpg", "01.jpg"],
        ["1.jpg", "1.png"],
        ["0_58.jpg", "0_59.jpg", "1_0.jpg", "1_58.jpg"],
        ["1_2_3.jpg", "1_2_4.jpg", "1_3_3.jpg", "2_2_3.jpg"],
    ],
)
def test_crops_whose_order_is_not_known_are_refused(names: list[str]) -> None:
    with pytest.raises(UnreadableError, match="order in time is not known"):
        order_crops(names)


def openface(rows: list[dict[str, object]]) -> str:
    names = ["frame", "face_id", "timestamp", "confidence", "success", *COLUMNS]
    filled = [
        {**dict.fromkeys(COLUMNS, 1.0), "face_id": 0, "confidence": 0.98, "success": 1, **row} for row in rows
    ]
    return (
        "\n".join([", ".join(names), *(", ".join(str(row[name]) for name in names) for row in filled)]) + "\n"
    )


@pytest.mark.parametrize("bad", ["-nan(ind)", "nan", "-nan", "1.#QNAN", "-1.#IND", "inf", "", "?"])
@pytest.mark.parametrize("column", ["AU12_r", "pose_Rx", "timestamp", "confidence"])
def test_a_row_with_no_number_in_it_is_a_missing_step(bad: str, column: str) -> None:
    rows = [{"frame": n + 1, "timestamp": n / 30} for n in range(3)]
    rows[1][column] = bad
    found = read_openface(openface(rows))
    np.testing.assert_allclose(found.timestamps_s, [0, 2 / 30], rtol=1e-6)
    assert found.remarks == ["1 frame was left out, in which OpenFace trusted no face"]


def test_a_line_cut_short_is_a_missing_step() -> None:
    text = openface([{"frame": 1, "timestamp": 0.0}, {"frame": 2, "timestamp": 0.1}])
    assert len(read_openface(text[:-40]).values) == 1


def test_frames_of_an_image_sequence_are_in_the_order_of_their_numbers() -> None:
    rows = [{"frame": frame, "timestamp": 0, "AU01_r": frame} for frame in (1, 10, 2)]
    found = read_openface(openface(rows))
    assert found.values[:, 0].tolist() == [1, 2, 10]
    np.testing.assert_allclose(found.timestamps_s, [0, 1 / 6, 9 / 6], rtol=1e-6)
    assert found.remarks == ["no frame has a timestamp: 6 frames per second were assumed"]


def test_a_csv_of_no_numbers_is_refused() -> None:
    with pytest.raises(ClipError, match="no face in any of 1 frames"):
        read_openface(openface([dict.fromkeys(["frame", "timestamp", *COLUMNS], "-nan(ind)")]))


@pytest.mark.parametrize("name", ["frame", "Frame", "timestamp", "time_s", "step"])
def test_a_sequence_column_puts_rows_in_order_and_is_no_feature(tmp_path: Path, name: str) -> None:
    frame = pd.DataFrame(
        {"clip_id": ["a"] * 3 + ["b"], name: [10, 1, 2, 5], "x": [3.0, 1, 2, 9], "y": [30.0, 10, 20, 90]}
    )
    frame.to_parquet(tmp_path / "f.parquet")
    found = dict(ParquetSource("audio", str(tmp_path / "f.parquet")).arrays(["a", "b"]))
    np.testing.assert_array_equal(found["a"], [[1, 10], [2, 20], [3, 30]])
    np.testing.assert_array_equal(found["b"], [[9, 90]])


def test_frame_and_timestamp_together_are_no_features(tmp_path: Path) -> None:
    frame = pd.DataFrame({"clip_id": ["a", "a"], "frame": [2, 1], "timestamp": [0.2, 0.1], "x": [2.0, 1.0]})
    frame.to_parquet(tmp_path / "f.parquet")
    ((_, values),) = ParquetSource("audio", str(tmp_path / "f.parquet")).arrays(["a"])
    np.testing.assert_array_equal(values, [[1], [2]])


def test_rows_of_one_moment_cost_their_clip(tmp_path: Path) -> None:
    frame = pd.DataFrame({"clip_id": ["a", "a"], "frame": [1, 1], "x": [2.0, 1.0]})
    frame.to_parquet(tmp_path / "f.parquet")
    ((_, error),) = ParquetSource("audio", str(tmp_path / "f.parquet")).arrays(["a"])
    assert isinstance(error, ClipError)
    assert "frame is missing, not a number, or equal in several rows" in error.reason


@pytest.mark.parametrize(
    ("name", "moments"),
    [
        ("frame", ["frame_10", "frame_2", "frame_1"]),
        ("frame", ["00010.jpg", "00002.jpg", "00001.jpg"]),
        ("time", pd.to_timedelta([10, 2, 1], unit="s")),
        ("timestamp", pd.to_datetime([10, 2, 1], unit="s")),
        ("start", [1.0, 0.2, 0.1]),
        (" Frame ", [10, 2, 1]),
    ],
)
def test_a_sequence_column_of_any_type_puts_rows_in_order(tmp_path: Path, name: str, moments: object) -> None:
    frame = pd.DataFrame({"clip_id": ["a"] * 3, name: moments, "x": [3.0, 2.0, 1.0]})
    frame.to_parquet(tmp_path / "f.parquet")
    ((_, values),) = ParquetSource("audio", str(tmp_path / "f.parquet")).arrays(["a"])
    np.testing.assert_array_equal(values, [[1], [2], [3]])


def test_a_sequence_column_of_words_costs_the_clips(tmp_path: Path) -> None:
    frame = pd.DataFrame({"clip_id": ["a", "a"], "frame": ["first", "second"], "x": [2.0, 1.0]})
    frame.to_parquet(tmp_path / "f.parquet")
    ((_, error),) = ParquetSource("audio", str(tmp_path / "f.parquet")).arrays(["a"])
    assert isinstance(error, ClipError)


@pytest.mark.parametrize("num_rows", [1, 3])
def test_ids_beside_another_number_of_rows_are_refused(tmp_path: Path, num_rows: int) -> None:
    np.savez(tmp_path / "f.npz", clip_id=np.array(["a", "b"]), features=np.ones((num_rows, 4)))
    with pytest.raises(UserError, match=f"2 ids and 'features' {num_rows} rows"):
        KeyedSource("audio", str(tmp_path / "f.npz")).ids()


def test_an_npz_of_nothing_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz")
    with pytest.raises(UserError, match="contains no arrays"):
        KeyedSource("audio", str(tmp_path / "f.npz")).ids()


def test_labels_among_the_features_are_refused(tmp_path: Path) -> None:
    frame = pd.DataFrame({"clip_id": ["a", "b"], "x": [2.0, 1.0], "Empathic Pain": [0.5, 0.7]})
    frame.to_parquet(tmp_path / "f.parquet")
    workspace = Workspace(str(tmp_path / "work"))
    with pytest.raises(UserError, match=r"labels are among the feature columns \(Empathic Pain\)"):
        import_features(workspace, "table", str(tmp_path / "f.parquet"), "audio")


def test_an_id_twice_in_an_npz_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", clip_id=np.array(["a", "b", "a"]), features=np.ones((3, 2, 4)))
    with pytest.raises(UserError, match=r"f\.npz: 'a' occurs twice"):
        KeyedSource("audio", str(tmp_path / "f.npz")).ids()


def test_two_spellings_of_one_padded_id_are_refused() -> None:
    assert match_ids(["123", "00007"], ["00123", "00007"]) == {"00123": "123", "00007": "00007"}
    with pytest.raises(UserError, match="'123' and '00123' are features of the same clip, 00123"):
        match_ids(["123", "00123"], ["00123"])
