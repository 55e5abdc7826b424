"""Cache of trained encoders, shared by all recipes of a workspace: ``encoders/<modality>/<key>.safetensors``."""

import json
from dataclasses import dataclass

from safetensors.torch import load, save

from emi_ray.schema import EncoderName
from emi_ray.training.checkpoint import metadata_of
from emi_ray.training.stages.runner import StageResult
from emi_ray.workspace import Workspace

_PLAIN = ("scores", "history", "best_epoch", "num_train", "num_val", "seconds")


@dataclass(frozen=True)
class WorkspaceEncoderCache:
    """Stores weights, scores and history of an encoder stage in one file, by a hash of everything that determines it.

    Attributes:
        workspace: contains the files.
        reuse: whether stored encoders are found. If not, they are trained again and replaced.
        passing: encoders that are not stored.
    """

    workspace: Workspace
    reuse: bool = True
    passing: frozenset[EncoderName] = frozenset()

    def has(self, modality: EncoderName, key: str) -> bool:
        return self.reuse and self.workspace.exists(self._path(modality, key))

    def load(self, modality: EncoderName, key: str) -> StageResult:
        data = self.workspace.read_bytes(self._path(modality, key))
        plain = json.loads(metadata_of(data)["outcome"])
        return StageResult(weights=load(data), **plain)

    def save(self, modality: EncoderName, key: str, result: StageResult) -> None:
        if modality in self.passing:
            return
        plain = json.dumps({name: getattr(result, name) for name in _PLAIN})
        self.workspace.write_bytes(self._path(modality, key), save(result.weights, {"outcome": plain}))

    @staticmethod
    def _path(modality: EncoderName, key: str) -> str:
        return f"encoders/{modality}/{key}.safetensors"
