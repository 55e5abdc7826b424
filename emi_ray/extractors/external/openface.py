"""Facial action units and head pose as measured by OpenFace 2, from existing CSV files or by running its binary."""

import csv
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from pydantic import BaseModel, Field

from emi_ray.config import MediaSettings
from emi_ray.errors import ClipError, UserError
from emi_ray.extractors.base import Extractor, Features
from emi_ray.media.clip import DecodedClip
from emi_ray.media.faces import READY_CROPS_RATE_HZ
from emi_ray.media.source import UnreadableError, open_media
from emi_ray.schema import Need
from emi_ray.settings import Settings
from emi_ray.wording import plural
from emi_ray.workspace import suffix_of

_UNITS = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 45)
COLUMNS = (
    *(f"AU{unit:02d}_r" for unit in _UNITS),
    *("pose_Tx", "pose_Ty", "pose_Tz", "pose_Rx", "pose_Ry", "pose_Rz"),
)
"""The 23 features in order: 17 action-unit intensities (0–5), head position (mm), head rotation (rad)."""

_QUALITY = ("timestamp", "confidence", "success")


class OpenFaceSettings(Settings):
    """The source of the measurements, and which of them are trusted."""

    binary: str | None = Field(
        None, description="path or name of OpenFace's FeatureExtraction; null: existing CSV files"
    )
    min_confidence: float = Field(0.7, ge=0, le=1, description="frames with a lower confidence are dropped")
    time_limit_s: float = Field(600.0, gt=0, description="seconds that the binary may take for one clip")


class OpenFace(Extractor):
    """Action units and head pose, one step per frame of the video: (T, 23) in the order of ``COLUMNS``.

    Frames where OpenFace failed (``success`` 0, confidence below ``min_confidence``, a value that is not a number)
    are dropped, with a remark; the others keep their timestamps. If there are several faces, the
    one with the largest sum of confidences is used, or the lowest ``face_id`` if sums are equal.

    Users must install the binary themselves, because OpenFace's licence allows academic use only. Features from the
    binary and from an existing CSV file have the same fingerprint.
    """

    NAME = "openface"
    MODALITY = "motion"
    NEEDS = frozenset({"openface_csv"})
    LICENCE = "OpenFace: academic use only"
    DIM = len(COLUMNS)
    Settings = OpenFaceSettings

    @classmethod
    def needs(cls, settings: Any) -> frozenset[Need]:
        return frozenset({"video"}) if settings.binary else cls.NEEDS

    @classmethod
    def resolve(cls, settings: Any) -> Any:
        """Return the settings with the full path of the binary.

        Raises:
            UserError: the binary does not exist.
        """
        if settings.binary is None:
            return settings
        found = shutil.which(settings.binary)
        if found is None:
            raise UserError(
                f"extractors.motion.settings.binary = '{settings.binary}' is not a program. Give the path of "
                "OpenFace's FeatureExtraction, or remove the setting and give CSV files (openface_csv)."
            )
        return settings.model_copy(update={"binary": str(Path(found).resolve())})

    @classmethod
    def check(cls, settings: Any) -> list[str]:
        try:
            cls.resolve(settings)
        except UserError as error:
            return [str(error)]
        return []

    @classmethod
    def identity(cls, settings: BaseModel, media: MediaSettings) -> dict[str, Any]:
        return {**super().identity(settings, media), "not_deciding": ["binary", "time_limit_s"]}

    @property
    def feature_dim(self) -> int:
        return len(COLUMNS)

    def extract(self, clips: Sequence[DecodedClip]) -> list[Features]:
        """Read or compute the features of each clip: (T, 23) float32.

        Raises:
            ClipError: the file is not an OpenFace CSV, none of its frames is trusted, or the binary failed.
        """
        return [read_openface(self._csv(clip), self.settings.min_confidence) for clip in clips]

    def _csv(self, clip: DecodedClip) -> str:
        if self.settings.binary is None:
            return clip.openface_csv or ""
        assert clip.video is not None, "the caller gives every clip its needs"
        return run_feature_extraction(self.settings.binary, clip.video, self.settings.time_limit_s)


def read_openface(text: str, min_confidence: float = 0.7) -> Features:
    """Read features (T, 23) from the text of an OpenFace CSV. Column names may be separated by ``","`` or ``", "``.

    A row with a value that is not a number (``-nan(ind)`` as Windows writes it, a truncated line) is dropped. If no
    frame has a timestamp of its own, as in CSVs of image sequences, the frames are taken to be face crops at six
    per second, in the order of their numbers.

    Raises:
        ClipError: columns are missing, or no frame is trusted.
    """
    table = _read_table(text)
    faces, confidences = table.get("face_id"), table["confidence"]
    frames = table.get("frame", np.arange(len(confidences), dtype=np.float64))
    times, untimed = _times(table["timestamp"], frames)
    values = np.stack([table[name] for name in COLUMNS], axis=1)
    trusted = (table["success"] == 1) & (confidences >= min_confidence)
    trusted &= np.isfinite(np.column_stack([values, times, confidences])).all(axis=1)
    if not trusted.any():
        reason = f"OpenFace found no face in any of {len(times)} frames (confidence ≥ {min_confidence})"
        raise ClipError("motion", reason)
    if faces is not None:
        ids = np.unique(faces[trusted])
        # The sum of confidences favours a face that is both clear and long in view.
        weights = [confidences[trusted & (faces == face)].sum() for face in ids]
        trusted &= faces == ids[int(np.argmax(weights))]
    order = np.argsort(times[trusted], kind="stable")
    # With several faces a frame has several rows, so distinct frames are counted and not rows.
    moments = times if "frame" not in table or not np.isfinite(frames).all() else frames
    remarks = []
    if (dropped := len(np.unique(moments)) - int(trusted.sum())) > 0:
        remarks.append(f"{plural(dropped, 'frame', 'were')} left out, in which OpenFace trusted no face")
    if untimed:
        remarks.append(f"no frame has a timestamp: {READY_CROPS_RATE_HZ:g} frames per second were assumed")
    return Features(
        values[trusted][order].astype(np.float32),
        times[trusted][order].astype(np.float32),
        remarks=remarks,
    )


def _times(stamps: np.ndarray, frames: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the time of each row in seconds, and how many of them are assumed."""
    known = stamps[np.isfinite(stamps)]
    # In CSVs of image sequences all timestamps are equal.
    if len(np.unique(frames[np.isfinite(frames)])) < 2 or len(np.unique(known)) > 1:
        return stamps, 0
    return (frames - np.nanmin(frames)) / READY_CROPS_RATE_HZ, len(frames)


def run_feature_extraction(binary: str, video: str, time_limit_s: float) -> str:
    """Run OpenFace's FeatureExtraction on a video (a path or URI) and return the text of its CSV.

    Raises:
        ClipError: the video cannot be read, or the program fails, takes too long or writes nothing.
    """
    with TemporaryDirectory(prefix="emi_ray_openface_") as folder:
        clip = _local_copy(video, Path(folder))
        command = [binary, "-f", str(clip), "-out_dir", folder, "-aus", "-pose"]
        try:
            run = subprocess.run(command, capture_output=True, text=True, timeout=time_limit_s, check=False)
        except subprocess.TimeoutExpired:
            raise ClipError("motion", f"OpenFace took longer than {time_limit_s:g} s") from None
        written = Path(folder) / f"{clip.stem}.csv"
        if run.returncode != 0 or not written.is_file():
            lines = (run.stderr or run.stdout).strip().splitlines()
            reason = f"OpenFace ended with code {run.returncode}: {lines[-1] if lines else 'no message'}"
            raise ClipError("motion", reason)
        return written.read_text()


def _local_copy(video: str, folder: Path) -> Path:
    """Return ``video`` itself if it is a local file, else the path of a copy in ``folder``."""
    if Path(video).is_file():
        return Path(video)
    copy = folder / f"clip{suffix_of(video)}"
    try:
        with open_media(video) as source, copy.open("wb") as target:
            shutil.copyfileobj(source, target)
    except UnreadableError as error:
        raise ClipError("media", str(error)) from error
    return copy


def _read_table(text: str) -> Mapping[str, np.ndarray]:
    """Column name → values (rows,) float64.

    Raises:
        ClipError: as :func:`read_openface`.
    """
    rows = list(csv.reader(text.splitlines()))
    names = [name.strip() for name in rows[0]] if rows else []
    lacking = [name for name in (*_QUALITY, *COLUMNS) if name not in names]
    if lacking:
        raise ClipError("motion", f"the OpenFace CSV lacks {len(lacking)} columns (first: {lacking[0]})")
    wanted = [name for name in ("face_id", "frame", *_QUALITY, *COLUMNS) if name in names]
    places = [names.index(name) for name in wanted]
    values = np.array([[_number(row, place) for place in places] for row in rows[1:] if row])
    return dict(zip(wanted, values.reshape(-1, len(wanted)).T, strict=True))


def _number(row: Sequence[str], place: int) -> float:
    """Parse one value; NaN if it is missing or not a number (``-nan(ind)``, ``1.#QNAN``)."""
    try:
        return float(row[place])
    except (ValueError, IndexError):
        return float("nan")
