"""Motion without a download: optical flow of face crops and dynamics of the face box."""

from collections.abc import Sequence

import cv2
import numpy as np

from emi_ray import config
from emi_ray.extractors.base import Extractor, Features
from emi_ray.media.clip import DecodedClip, Faces


def _flows(faces: Faces) -> np.ndarray:
    grey = [cv2.cvtColor(cv2.resize(crop, (64, 64)), cv2.COLOR_RGB2GRAY) for crop in faces.crops]
    flows = [
        cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 2, 9, 2, 5, 1.1, 0)  # type: ignore[call-overload]
        for a, b in zip(grey, grey[1:], strict=False)
    ]
    return np.stack(flows) if flows else np.zeros((1, 64, 64, 2), np.float32)


class Flow(Extractor):
    """Optical-flow statistics per pair of frames."""

    NAME = "flow"
    MODALITY = "motion"
    NEEDS = frozenset({"faces"})

    class Settings(config.Settings):
        pass

    @property
    def feature_dim(self) -> int:
        return 48

    def extract(self, clips: Sequence[DecodedClip]) -> list[Features]:
        return [self._features(clip.faces) for clip in clips if clip.faces]

    def _features(self, faces: Faces) -> Features:
        flows = _flows(faces)
        field = np.concatenate([flows, np.linalg.norm(flows, axis=-1, keepdims=True)], axis=-1)
        cells = field.reshape(len(field), 4, 16, 4, 16, 3).mean((2, 4)).reshape(len(field), -1)
        times = faces.timestamps_s
        middle = (times[1:] + times[:-1]) / 2 if len(times) > 1 else times[:1]
        return Features(cells.astype(np.float32), middle.astype(np.float32))


class MotionSummary(Extractor):
    """The paper's eight summary statistics."""

    NAME = "motion-summary"
    MODALITY = "motion"
    NEEDS = frozenset({"faces"})

    class Settings(config.Settings):
        pass

    @property
    def feature_dim(self) -> int:
        return 8

    def extract(self, clips: Sequence[DecodedClip]) -> list[Features]:
        return [self._features(clip.faces) for clip in clips if clip.faces]

    def _features(self, faces: Faces) -> Features:
        flows = _flows(faces)
        size = np.linalg.norm(flows, axis=-1)
        level, angle = size.mean((1, 2)), np.arctan2(flows[..., 1], flows[..., 0])
        values = [size.mean(), size.std(), size.max(), level.std(), (size**2).mean(), angle.mean()]
        values += [angle.std(), (level > level.mean() + level.std()).mean()]
        return Features(np.array([values], np.float32), faces.timestamps_s.mean(keepdims=True))
