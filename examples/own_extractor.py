"""Extract features with a class of your own: how loud each tenth of a second is.

PYTHONPATH=examples python examples/own_extractor.py work
"""

from collections.abc import Sequence

import numpy as np
import typer
from pydantic import Field

import emi_ray


class LoudnessSettings(emi_ray.Settings):
    step_s: float = Field(0.1, gt=0, description="seconds of each step")


class Loudness(emi_ray.Extractor):
    """Root mean square of the sound in each step, in dB."""

    NAME = "loudness"
    MODALITY = "audio"
    NEEDS = frozenset({"waveform"})
    Settings = LoudnessSettings

    @property
    def feature_dim(self) -> int:
        return 1

    def extract(self, clips: Sequence[emi_ray.DecodedClip]) -> list[emi_ray.Features]:
        return [self._of(clip.waveform.samples, clip.waveform.sample_rate_hz) for clip in clips]

    def _of(self, samples: np.ndarray, rate_hz: int) -> emi_ray.Features:
        step = max(1, round(self.settings.step_s * rate_hz))
        parts = np.array_split(samples, max(1, len(samples) // step))
        loudness = [10 * np.log10(np.mean(np.square(part, dtype=np.float64)) + 1e-10) for part in parts]
        times = (np.arange(len(parts)) + 0.5) * len(samples) / len(parts) / rate_hz
        return emi_ray.Features(np.array(loudness, np.float32)[:, None], times.astype(np.float32))


def main(workspace: str) -> None:
    settings = {"extractors.audio.name": "examples.own_extractor:Loudness"}
    summary = emi_ray.extract(workspace, ["audio"], settings=settings)
    print(f"{summary.stages['audio'].ok} clips done, {summary.stages['audio'].failed} failed")
    loudness = emi_ray.read_features(workspace, "audio", "examples.own_extractor:Loudness")
    clip_id, steps = next(iter(loudness.items()))
    print(f"{clip_id}: {len(steps)} steps, {steps.mean():.1f} dB in the mean")


if __name__ == "__main__":
    typer.run(main)
