"""Text without a download: hashed word and character n-grams."""

import re
import zlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
from pydantic import Field

from emi_ray import config
from emi_ray.errors import ClipError
from emi_ray.extractors.base import Extractor, Features
from emi_ray.media.clip import DecodedClip


class HashedNgrams(Extractor):
    """Signed hashing of word 1- and 2-grams and character 3- to 5-grams; one L2-normalised step a clip."""

    NAME = "hashed-ngrams"
    MODALITY = "text"
    NEEDS = frozenset({"transcript"})

    class Settings(config.Settings):
        dim: int = Field(768, ge=64, le=16384, description="size of the vector")

    @property
    def feature_dim(self) -> int:
        return self.settings.dim

    def extract(self, clips: Sequence[DecodedClip]) -> list[Features]:
        return [
            Features(self._vector(clip.transcript or "")[None], np.zeros(1, np.float32)) for clip in clips
        ]

    def _vector(self, transcript: str) -> np.ndarray:
        words = re.findall(r"[\w']+", transcript.lower())
        if not words:
            raise ClipError("text", "the transcript is empty")
        grams = Counter(words + [" ".join(pair) for pair in zip(words, words[1:], strict=False)])
        vector = np.zeros(self.settings.dim, np.float32)
        for gram, count in grams.items():
            code = zlib.crc32(gram.encode())
            vector[(code >> 1) % len(vector)] += (1 if code & 1 else -1) * (1 + np.log(count))
        return vector / max(float(np.linalg.norm(vector)), 1e-6)
