"""Extractors that take memory of the GPU for each clip, break the device once, or say what memory they may use."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from emi_ray.extractors import Extractor, Features
from emi_ray.media.clip import DecodedClip
from emi_ray.settings import Settings


class HungrySettings(Settings):
    """``once``: a file that remembers that the device was broken once."""

    mb_per_clip: int = 0
    once: str | None = None


class Hungry(Extractor):
    """Takes memory of the GPU for each clip of a batch, or breaks the device once."""

    NAME = "hungry"
    MODALITY = "text"
    NEEDS = frozenset({"transcript"})
    USES_GPU = True
    Settings = HungrySettings

    @property
    def feature_dim(self) -> int:
        return 2

    def extract(self, clips: Sequence[DecodedClip]) -> list[Features]:
        torch.cuda.set_per_process_memory_fraction(0.02)  # 1.6 GB of 80
        torch.empty(len(clips) * self.settings.mb_per_clip * 2**20, dtype=torch.uint8, device="cuda")
        if self.settings.once and not Path(self.settings.once).exists():
            Path(self.settings.once).touch()
            table = torch.zeros(4, 2, device="cuda")
            beyond = torch.full((1,), 10**6, device="cuda")
            print(torch.nn.functional.embedding(beyond, table).cpu())  # a device-side assertion
        values = torch.tensor([[len(clip.transcript or ""), 1.0] for clip in clips], device="cuda").cpu()
        return [Features(row.numpy()[None], np.zeros(1, np.float32)) for row in values]


class Modest(Extractor):
    """Says which share of the GPU's memory its process may use."""

    NAME = "modest"
    MODALITY = "text"
    NEEDS = frozenset({"transcript"})
    USES_GPU = True
    Settings = Settings

    @property
    def feature_dim(self) -> int:
        return 1

    def extract(self, clips: Sequence[DecodedClip]) -> list[Features]:
        share = torch.cuda.get_per_process_memory_fraction()
        return [Features(np.full((1, 1), share, np.float32), np.zeros(1, np.float32)) for _ in clips]
