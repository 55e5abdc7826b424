"""Built-in motion extractors: optical flow within the face and motion of the face's box. Nothing is downloaded."""

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from emi_ray.errors import ClipError
from emi_ray.extractors.base import Extractor, Features
from emi_ray.extractors.builtin.image.boxes import BOX_NAMES, box_dynamics
from emi_ray.extractors.builtin.image.flow import FLOW_NAMES, face_flows, flow_statistics, step_times
from emi_ray.extractors.builtin.image.regions import FACE_SHARE
from emi_ray.extractors.builtin.rolling import mean_around, std_around
from emi_ray.media.clip import DecodedClip, Faces
from emi_ray.settings import Settings

CONTEXT_NAMES = ("speed_around", "speed_variation", "burst")
SUMMARY_NAMES = (
    "motion_mag_mean",
    "motion_mag_std",
    "motion_mag_max",
    "motion_mag_temporal_std",
    "motion_energy",
    "motion_angle_mean",
    "motion_angle_std",
    "motion_burst_ratio",
)
_CONTEXT_STEPS = 7
_SUMMARY_UNIT = 0.1


class FlowSettings(Settings):
    """The part of a crop that is analysed."""

    face_share: float = Field(
        FACE_SHARE, ge=0.3, le=1, description="side of the window from brow to chin, as a share of the crop's"
    )


class Flow(Extractor):
    """Motion between neighbouring frames, one step per pair of frames in one run: T − R steps for T frames in R runs.

    A run ends at a cut or gap (:class:`~emi_ray.media.clip.Faces`). Such a pair of frames has no step, because its
    difference is no movement, and neither is a standstill. Each run is described as if it were a clip of its own.

    Blocks of dimensions, in order (:meth:`feature_names` lists each):

    - flow (104): see :func:`~emi_ray.extractors.builtin.image.flow.flow_statistics`: rigid motion of the face in its
      window, then mean velocity, speed and divergence on 4 × 4 cells, motion and stretching of brows, eyes, nose
      and mouth, speed by direction, and the whole field's speed, expansion, shear, asymmetry and change;
    - box (11): see :func:`~emi_ray.extractors.builtin.image.boxes.box_dynamics`;
    - context (3): mean and standard deviation of the speed over the seven steps around, and by how much the step
      exceeds them.

    All features are per second, independent of the frame rate, and scaled by fixed constants to O(1). A single
    frame gives one step of zeros at its own time. A clip of several frames without two neighbours in one run has no
    features.
    """

    NAME = "flow"
    MODALITY = "motion"
    VERSION = 2
    NEEDS = frozenset({"faces"})
    DIM = 118
    Settings = FlowSettings

    @property
    def feature_dim(self) -> int:
        return len(self.feature_names())

    def feature_names(self) -> list[str]:
        """Return one name per dimension, such as ``mouth_opening`` or ``box_speed``."""
        return [*FLOW_NAMES, *BOX_NAMES, *CONTEXT_NAMES]

    def extract(self, clips: Sequence[DecodedClip]) -> list[Features]:
        """Compute one step per pair of neighbouring frames: (max(T − R, 1), feature_dim) float32.

        Raises:
            ClipError: a clip has no face crops.
        """
        return [self._features(clip.faces) for clip in clips if clip.faces]

    def _features(self, faces: Faces) -> Features:
        runs = _moving_runs(faces)
        if not runs:
            return Features(np.zeros((1, self.feature_dim), np.float32), _middle(faces))
        values = np.concatenate([self._values(run) for run in runs])
        return Features(np.clip(values, -10, 10), np.concatenate([step_times(run) for run in runs]))

    def _values(self, run: Faces) -> np.ndarray:
        flow = np.concatenate(
            [flow_statistics(*chunk) for chunk in face_flows(run, self.settings.face_share)]
        )
        around = _context(flow[:, FLOW_NAMES.index("speed_mean")])
        return np.concatenate([flow, box_dynamics(run), around], axis=1, dtype=np.float32)


class MotionSummary(Extractor):
    """Eight summary statistics of inter-frame motion, one step per clip.

    The paper names the eight statistics without formulas; the formulas are ours. Let v be the velocity of a pixel
    of the face window in one step (Farnebäck flow, in tenths of the window's side per second), m = |v|, and M the
    mean of m over the pixels of a step:

    - ``motion_mag_mean``, ``motion_mag_std``, ``motion_mag_max``: of m over all pixels and steps;
    - ``motion_mag_temporal_std``: standard deviation of M over the steps;
    - ``motion_energy``: mean of m² over all pixels and steps;
    - ``motion_angle_mean``, ``motion_angle_std``: direction of the mean of v in radians (0 right, π/2 down),
      and circular standard deviation √(−2 ln R) with R = |mean of v| / mean of m (Mardia 1972);
    - ``motion_burst_ratio``: share of steps in which M exceeds its mean by more than its standard deviation.

    A step is a pair of neighbouring frames in one run (:class:`~emi_ray.media.clip.Faces`): pairs with a cut or a
    gap between them count nowhere, neither as movement nor as standstill. A single frame gives eight zeros; a clip
    of several frames without such a pair has no features. The timestamp is the middle of the clip.
    """

    NAME = "motion-summary"
    MODALITY = "motion"
    VERSION = 2
    NEEDS = frozenset({"faces"})
    DIM = len(SUMMARY_NAMES)
    Settings = FlowSettings

    @property
    def feature_dim(self) -> int:
        return len(SUMMARY_NAMES)

    def feature_names(self) -> list[str]:
        """Return the names of the eight statistics."""
        return list(SUMMARY_NAMES)

    def extract(self, clips: Sequence[DecodedClip]) -> list[Features]:
        """Compute one step per clip: (1, 8) float32.

        Raises:
            ClipError: a clip has no face crops.
        """
        return [self._features(clip.faces) for clip in clips if clip.faces]

    def _features(self, faces: Faces) -> Features:
        runs, share = _moving_runs(faces), self.settings.face_share
        if not runs:
            return Features(np.zeros((1, self.feature_dim), np.float32), _middle(faces))
        # Only moments are kept: the velocities of a long clip would fill the memory.
        moments = [_moments(velocity) for run in runs for velocity, _ in face_flows(run, share)]
        values = _summary(np.concatenate(moments))
        return Features(np.clip(values, -1e4, 1e4).astype(np.float32)[None], _middle(faces))


def _moving_runs(faces: Faces) -> list[Faces]:
    """Return the runs of at least two frames; none for a single frame.

    Raises:
        ClipError: there is no frame, or no movement that could be measured between several frames.
    """
    if not len(faces.crops):
        raise ClipError("motion", "there are no face crops")
    runs = [run for run in faces.runs() if len(run.crops) > 1]
    if not runs and len(faces.crops) > 1:
        raise ClipError(
            "missing", "a cut or gap is between any two face crops: there is no movement to measure"
        )
    return runs


def _middle(faces: Faces) -> np.ndarray:
    """Return the time in the middle of the clip, (1,) float32."""
    middle = (faces.timestamps_s[:1] + faces.timestamps_s[-1:]) / 2
    return np.asarray(middle, np.float32)


def _context(speed: np.ndarray) -> np.ndarray:
    """Compute ``CONTEXT_NAMES`` from the compressed mean speed (P,): (P, 3)."""
    mean, deviation = mean_around(speed, _CONTEXT_STEPS), std_around(speed, _CONTEXT_STEPS)
    return np.column_stack([mean, 2 * deviation, np.maximum(speed - mean - deviation, 0)])


def _moments(velocity: np.ndarray) -> np.ndarray:
    """Compute per step: mean and mean square of the speed, mean velocity across and down, largest speed; (P, 5)."""
    across, down = velocity[:, 0] / _SUMMARY_UNIT, velocity[:, 1] / _SUMMARY_UNIT
    square = across**2 + down**2
    magnitude = np.sqrt(square)
    columns = [field.mean(axis=(1, 2), dtype=np.float64) for field in (magnitude, square, across, down)]
    return np.stack([*columns, magnitude.max(axis=(1, 2))], axis=1)


def _summary(moments: np.ndarray) -> np.ndarray:
    """Compute ``SUMMARY_NAMES`` from the moments of all steps: (8,)."""
    level, largest = moments[:, 0], moments[:, 4].max()
    mean, energy, across, down, _ = moments.mean(axis=0)
    temporal_std = level.std()
    if mean <= 0:
        return np.zeros(len(SUMMARY_NAMES))
    # Bounded away from 0, where the logarithm is infinite.
    concentration = np.clip(np.hypot(across, down) / mean, 1e-6, 1)
    return np.array(
        [
            mean,
            np.sqrt(max(energy - mean**2, 0)),
            largest,
            temporal_std,
            energy,
            np.arctan2(down, across),
            np.sqrt(-2 * np.log(concentration)),
            (level > mean + temporal_std).mean(),
        ]
    )
