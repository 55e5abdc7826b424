"""CPU time per clip of an extraction's driver, measured with stages that do nothing.

    python -m benchmarks.driver --clips 10000

Every modality runs an extractor that returns one number a clip, so that what is left is Ray Data's own work and ours
on the driver. Planning (reading the manifest and the store) is told apart from streaming.
"""

import argparse
import csv
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from emi_ray.corpus.setup import init_workspace
from emi_ray.extraction.run import extract
from emi_ray.extractors import Extractor, Features
from emi_ray.media.clip import DecodedClip
from emi_ray.runtime import ray_session
from emi_ray.settings import Settings
from emi_ray.workspace import Workspace


class NothingSettings(Settings):
    """An extractor without settings."""


class _Nothing(Extractor):
    """An extractor that returns one number per clip."""

    NEEDS = frozenset({"transcript"})
    Settings = NothingSettings

    @property
    def feature_dim(self) -> int:
        return 1

    def extract(self, clips: Sequence[DecodedClip]) -> list[Features]:
        return [Features(np.ones((1, 1), np.float32), np.zeros(1, np.float32)) for _ in clips]


class NoVision(_Nothing):
    NAME, MODALITY = "no-vision", "vision"


class NoMotion(_Nothing):
    NAME, MODALITY = "no-motion", "motion"


class NoAudio(_Nothing):
    NAME, MODALITY = "no-audio", "audio"


class NoText(_Nothing):
    NAME, MODALITY = "no-text", "text"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="emi-ray-driver-") as folder:
        workspace = _workspace(Path(folder), options.clips)
        with ray_session(streaming=True):
            _run(workspace, options.clips)


def _run(workspace: Workspace, num_clips: int) -> None:
    first_cpu = []

    def note(done: int, total: int) -> None:
        if not first_cpu:
            first_cpu.append(time.process_time())

    began, began_s = time.process_time(), time.monotonic()
    summary = extract(workspace, workspace.config(["extraction.measure=false"]), on_progress=note)
    spent, seconds = time.process_time() - began, time.monotonic() - began_s
    planning = first_cpu[0] - began
    print(f"{num_clips} clips, {len(summary.stages)} stages, {os.cpu_count()} cores, {seconds:.0f} s")
    print(f"driver CPU until the first outcome {planning:.1f} s, then {spent - planning:.1f} s")
    streaming = 1e3 * (spent - planning) / num_clips
    print(f"driver CPU a clip: {streaming:.3f} ms streaming, {1e3 * spent / num_clips:.3f} ms in all")


def _workspace(folder: Path, num_clips: int) -> Workspace:
    with (folder / "clips.csv").open("w") as stream:
        writer = csv.writer(stream)
        writer.writerow(["clip_id", "split", "transcript"])
        writer.writerows([f"{index:07d}", "train", "so I was happy"] for index in range(num_clips))
    workspace = Workspace(str(folder / "workspace"))
    names = {kind.MODALITY: kind.__name__ for kind in (NoVision, NoMotion, NoAudio, NoText)}
    settings = [f"extractors.{m}.name=benchmarks.driver:{name}" for m, name in names.items()]
    init_workspace(workspace, "table", str(folder / "clips.csv"), settings)
    return workspace


if __name__ == "__main__":
    main()
