"""Whole extraction of sound with a simulated GPU: at which rate can the cores of this machine feed it?

    python benchmarks/simulated_gpu.py --clips-per-s 0 100 --scratch /dev/shm

WAV files of 7 s are decoded, handed over, batched, and their features (350 x 1024, float16) written, as with
wav2vec2-large. The model is replaced by one that takes the given time on a simulated device: launching a pass holds
the thread and the interpreter, its results arrive when the device has finished this pass and all before it, and the
thread sleeps until then. What a real GPU computes costs no core here; what the host does is the real code, except
for calls of CUDA. ``--clips-per-s 0`` stands for a device that takes no time: the limit of the host. Two rates are
told: in the steady part, and of the whole run, which includes start-up and the merging of what is left at its end.

A machine with few cores can show only a slower device. An H100 computes 802 clips/s and has 16 cores in the machine
that was measured (`gpu.py`), which is about 50 clips/s a core. All cores together then have the same work as there;
the one interpreter of the model's process, and the driver, have an eighth of it.
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from gpu import RATE_HZ, new_workspace, save_sounds
from pydantic import BaseModel

from emi_ray.extraction.run import extract
from emi_ray.extractors import Extractor, Features
from emi_ray.extractors.pretrained.device import pack
from emi_ray.extractors.turns import leave_turn, turn_lent
from emi_ray.media.clip import DecodedClip
from emi_ray.runtime import ray_session

DIM, STEPS_PER_S = 1024, 50


class DeviceSettings(BaseModel):
    """What the simulated device can do.

    ``clips_per_s``: its rate; 0: infinite. ``launching_s``: time of the host for launching one pass. ``log``: a file
    that gets one line for each pass, with the number of clips, and the time when the device began and ended.
    """

    clips_per_s: float = 0.0
    launching_s: float = 0.038
    log: str = ""


class Speech(Extractor):
    """What ``HfAudio`` does on the host, with a device that is only a time at which it will be free."""

    NAME, MODALITY, NEEDS, USES_GPU = "simulated-speech", "audio", frozenset({"waveform"}), True
    Settings = DeviceSettings
    feature_dim = DIM

    def __init__(self, settings: DeviceSettings) -> None:
        super().__init__(settings)
        self._numbers = np.random.default_rng(0).normal(size=(4_000, DIM)).astype(np.float16)
        self._is_free_at = 0.0
        self._own = threading.local()

    def extract(self, clips: Sequence[DecodedClip]) -> list[Features]:
        sounds = [clip.waveform.samples for clip in clips if clip.waveform]
        with turn_lent():
            pack(sounds, self._pinned(sum(sound.nbytes for sound in sounds)))
        _compute(self.settings.launching_s)
        rate = self.settings.clips_per_s
        began = max(self._is_free_at, time.perf_counter())
        arrives_at = self._is_free_at = began + (len(clips) / rate if rate else 0.0)
        with open(self.settings.log, "a") as file:
            file.write(f"{len(clips)} {began} {arrives_at}\n")
        leave_turn()
        time.sleep(max(arrives_at - time.perf_counter(), 0.0))
        return [self._features(len(sound) * STEPS_PER_S // RATE_HZ) for sound in sounds]

    def _pinned(self, size: int) -> torch.Tensor:
        """Memory of this thread that is used again, as torch does with pinned memory."""
        memory: torch.Tensor = getattr(self._own, "memory", torch.empty(0, dtype=torch.uint8))
        if len(memory) < size:
            memory = self._own.memory = torch.empty(size, dtype=torch.uint8)
        return memory

    def _features(self, num_steps: int) -> Features:
        return Features(self._numbers[:num_steps], np.arange(num_steps, dtype=np.float32) / STEPS_PER_S)


def _compute(seconds: float) -> None:
    """Run Python code for so much processor time of this thread."""
    ends = time.thread_time() + seconds
    while time.thread_time() < ends:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips-per-s", nargs="+", type=float, default=[0.0])
    parser.add_argument(
        "--launching-s", type=float, default=DeviceSettings().launching_s, help="for each pass"
    )
    parser.add_argument("--num", type=int, default=10_000, help="clips")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the workspace")
    parser.add_argument("--scratch", help="folder for temporary files; /dev/shm leaves the disk out")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch) as name, ray_session(num_gpus=1, streaming=True):
        sounds = save_sounds(Path(name) / "sounds")
        for rate in options.clips_per_s:
            log = Path(name) / f"passes-at-{rate:g}.txt"
            settings = [
                "extraction.measure=false",
                "extractors.audio.name=simulated_gpu:Speech",
                f"extractors.audio.settings.clips_per_s={rate}",
                f"extractors.audio.settings.launching_s={options.launching_s}",
                f"extractors.audio.settings.log={log}",
                *options.set,
            ]
            workspace = new_workspace(Path(name) / f"at-{rate:g}", options.num, settings, audio=sounds)
            summary = extract(workspace, workspace.config(), ["audio"])
            clips_per_s, busy = _steady(log)
            share = f"busy {busy:.3f} of the time" if rate else "takes no time"
            failed = summary.stages["audio"].failed
            print(
                f"device of {rate:g} clips/s: {clips_per_s:.1f} clips/s, {share}; whole run "
                f"{summary.clips_per_s:.1f} clips/s ({summary.seconds:.0f} s), {failed} failed",
                flush=True,
            )


def _steady(log: Path) -> tuple[float, float]:
    """Return clips per second and the share of the time in which the device computed, without the first fifth and the
    last twentieth of the passes.
    """
    passes = np.loadtxt(log)
    passes = passes[len(passes) // 5 : len(passes) * 19 // 20]
    clips, began, ended = passes[:-1].sum(0)[0], passes[:, 1], passes[:, 2]
    elapsed = began[-1] - began[0]
    return clips / elapsed, float((ended - began)[:-1].sum() / elapsed)


if __name__ == "__main__":
    main()
