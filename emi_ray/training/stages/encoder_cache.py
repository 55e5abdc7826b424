"""Cache of trained encoders, shared by all recipes of a workspace: ``encoders/<modality>/<key>.safetensors``."""

import json
import logging
from dataclasses import dataclass

from safetensors import SafetensorError
from safetensors.torch import load, save

from emi_ray.schema import EncoderName
from emi_ray.storage import in_words
from emi_ray.training.checkpoint import metadata_of
from emi_ray.training.stages.runner import StageResult
from emi_ray.workspace import Workspace

_LOG = logging.getLogger(__name__)

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

    def load(self, modality: EncoderName, key: str) -> StageResult | None:
        """Return a stored encoder; None if there is none, or if its file is damaged, as after a power failure."""
        if not self.reuse:
            return None
        path = self._path(modality, key)
        try:
            data = self.workspace.read_bytes(path)
        except FileNotFoundError:
            return None
        try:
            return StageResult(weights=load(data), **json.loads(metadata_of(data)["outcome"]))
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            _LOG.warning(
                "%s cannot be read (%s): the encoder is trained again",
                self.workspace.shown(path),
                in_words(error),
            )
            return None

    def save(self, modality: EncoderName, key: str, result: StageResult) -> None:
        if modality in self.passing:
            return
        plain = json.dumps({name: getattr(result, name) for name in _PLAIN})
        self.workspace.write_bytes(self._path(modality, key), save(result.weights, {"outcome": plain}))

    @staticmethod
    def _path(modality: EncoderName, key: str) -> str:
        return f"encoders/{modality}/{key}.safetensors"
