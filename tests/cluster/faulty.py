"""An extractor that does harm on chosen clips: what its transcript says happens in the process that extracts it.

``sleep``, ``segfault``, ``memory``: every time. ``poison``: CUDA errors from the first time in a process until its
end; ``poison once``: likewise, once in all, as the file in ``EMI_RAY_FAULTY`` remembers. ``crowd 3``: out of memory
in a batch of more than three clips.
"""

import ctypes
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import ray
from pydantic import Field

from emi_ray.errors import ClipError
from emi_ray.extractors import Extractor, Features
from emi_ray.media.clip import DecodedClip
from emi_ray.settings import Settings

_poisoned = False


class FaultySettings(Settings):
    """``seconds``: of work a clip; ``once``: a file that remembers what was to happen once."""

    seconds: float = Field(0.0, ge=0)
    once: str | None = None


class Faulty(Extractor):
    """The number of letters of a transcript, unless it does harm."""

    NAME = "faulty"
    MODALITY = "text"
    NEEDS = frozenset({"transcript"})
    Settings = FaultySettings

    @property
    def feature_dim(self) -> int:
        return 2

    def extract(self, clips: Sequence[DecodedClip]) -> list[Features]:
        for clip in clips:
            self._harm(clip.transcript or "", len(clips))
            time.sleep(self.settings.seconds)
        return [self._features(clip) for clip in clips]

    def _features(self, clip: DecodedClip) -> Features:
        values = np.array([[len(clip.transcript or ""), 1]], np.float32)
        return Features(values, np.zeros(1, np.float32))

    def _harm(self, words: str, num_clips: int) -> None:
        global _poisoned
        harm, _, argument = words.partition(" ")
        if harm == "sleep":
            time.sleep(3600)
        elif harm == "segfault":
            ctypes.string_at(0)
        elif harm == "memory":
            held = []
            while True:
                held.append(np.ones(2**22))
                time.sleep(0.02)
        elif harm == "bad":
            raise ClipError("text", "this clip is bad")
        elif harm == "crowd" and num_clips > int(argument):
            raise RuntimeError(f"CUDA out of memory. Tried to allocate {num_clips * 17}.00 MiB")
        elif harm == "poison" and (argument != "once" or self._first_time()):
            _poisoned = True
        if _poisoned:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def _first_time(self) -> bool:
        try:
            os.close(os.open(Path(self.settings.once or ""), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True


class Harmless(Faulty):
    """Counts letters whatever they say, as another modality."""

    NAME, MODALITY = "harmless", "audio"

    def _harm(self, words: str, num_clips: int) -> None:
        return


class FaultyModel(Faulty):
    """The same, as a pretrained model that wants a GPU."""

    NAME = "faulty-model"
    USES_GPU = True


class VisionModel(FaultyModel):
    """The same, of vision."""

    NAME, MODALITY = "faulty-vision", "vision"


class AudioModel(FaultyModel):
    """The same, of sound."""

    NAME, MODALITY = "faulty-audio", "audio"


def precision_of_this_node() -> str:
    """Stands for a device's own: bfloat16 on a GPU."""
    return "bfloat16" if ray.get_gpu_ids() else "float32"
