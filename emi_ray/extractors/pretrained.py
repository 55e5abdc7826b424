"""What all pretrained extractors share: settings, identity, the choice of layer, batches of like lengths."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, Field

from emi_ray.config import MediaSettings
from emi_ray.errors import UserError
from emi_ray.extractors.base import Extractor
from emi_ray.pretrained.checkpoint import CONTENT, Checkpoint
from emi_ray.pretrained.loading import best_dtype, choose_device, load_model, use_tf32
from emi_ray.settings import Settings

if TYPE_CHECKING:
    import torch

NOT_DECIDING = frozenset({"device", "batch_size"})
"""Settings of all pretrained extractors that say how fast and where, and never change an output."""


class PretrainedSettings(Settings):
    """Which weights, and how they run. ``batch_size`` counts steps: images, tokens or 20 ms of sound.

    ``revision`` and ``dtype: auto`` are settled once, where the run is started, and travel to the workers as
    settled: nodes that differ never mix features. What ``dtype: auto`` means is asked of the nodes that do the work.
    """

    weights: str = Field(description="Hugging Face id, or a folder that save_pretrained wrote")
    revision: str | None = Field(None, description="commit, tag or branch; pinned to a commit when run")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="auto: bfloat16 where the processor computes in it, else float32 (on a GPU with TF32)",
    )
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    batch_size: int | None = Field(None, ge=1, description="steps in one pass; null: chosen for the device")


class LayerSettings(PretrainedSettings):
    """Adds the choice of layer."""

    layer: Literal["last", "mean"] | int = Field(
        "last",
        description="last: the output; mean: the mean of all layers; N: layer N (0: embeddings)",
    )


AnyPretrained = TypeVar("AnyPretrained", bound=PretrainedSettings)


def definite_dtype(dtype: str) -> str:
    """``dtype``, or what ``auto`` means on this machine."""
    return best_dtype() if dtype == "auto" else dtype


def resolve_pretrained(settings: AnyPretrained) -> AnyPretrained:
    """``settings`` with exact weights and a definite dtype.

    Raises:
        UserError: the weights cannot be had, or have no such layer.
    """
    exact = Checkpoint(settings.weights, settings.revision).pinned()
    if isinstance(num_layers := exact.read_json("config.json").get("num_hidden_layers"), int):
        check_layer(getattr(settings, "layer", "last"), num_layers)
    dtype = definite_dtype(settings.dtype)
    return settings.model_copy(update={"weights": exact.weights, "revision": exact.revision, "dtype": dtype})


def check_pretrained(settings: PretrainedSettings) -> list[str]:
    """Why these weights cannot be used now, if so."""
    reach = Checkpoint(settings.weights, settings.revision).reachable()
    return [reach.problem or "the weights cannot be had"] if reach.place == "no" else []


def deciding_pretrained(identity: dict[str, Any]) -> dict[str, Any]:
    """An identity without what never changes an output; a folder's place is kept, but decides nothing."""
    settings = {key: value for key, value in identity["settings"].items() if key not in NOT_DECIDING}
    hidden = ["weights"] if str(settings["revision"]).startswith(CONTENT) else []
    return {**identity, "settings": settings, **({"not_deciding": hidden} if hidden else {})}


class Pretrained(Extractor):
    """Base of extractors around a frozen ``transformers`` model.

    Features do not depend, beyond rounding, on which clips share a batch. A subclass says by ``_model_class``
    how the model is loaded, by ``_BATCH_SIZE`` how many steps suit a CPU and a GPU, and by ``_PASS_COST`` how many
    steps one more pass costs there.
    """

    USES_GPU = True
    Settings: ClassVar[type[BaseModel]] = PretrainedSettings
    _BATCH_SIZE: ClassVar[tuple[int, int]]
    _PASS_COST: ClassVar[tuple[int, int]] = (0, 0)

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self._folder = Checkpoint(settings.weights, settings.revision).locate()
        self._device = choose_device(settings.device)
        dtype = definite_dtype(settings.dtype)
        use_tf32(self._device, dtype)
        self._model = load_model(self._model_class(), self._folder, dtype, self._device)
        self._batch_size = settings.batch_size or self._BATCH_SIZE[self._device.type == "cuda"]

    @classmethod
    def resolve(cls, settings: Any) -> Any:
        return resolve_pretrained(settings)

    @classmethod
    def check(cls, settings: Any) -> list[str]:
        return check_pretrained(settings)

    @classmethod
    def identity(cls, settings: BaseModel, media: MediaSettings) -> dict[str, Any]:
        return deciding_pretrained(super().identity(settings, media))

    @property
    def feature_dim(self) -> int:
        return int(self._model.config.hidden_size)

    def _batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Indices of items of these lengths, a batch for each pass."""
        return batches_by_length(lengths, self._batch_size, self._PASS_COST[self._device.type == "cuda"])

    def use_less_memory(self) -> bool:
        """Halve the steps of one pass."""
        if self._batch_size <= 1:
            return False
        self._batch_size //= 2
        return True

    def _model_class(self) -> Any:
        from transformers import AutoModel

        return AutoModel


def check_layer(layer: str | int, num_layers: int) -> None:
    """Refuse a layer that the model does not have.

    Raises:
        UserError: there is no such layer.
    """
    if isinstance(layer, int) and not -num_layers <= layer <= num_layers:
        raise UserError(f"layer = {layer}: the model has layers 0 (embeddings) to {num_layers}.")


def select_layer(output: Any, layer: str | int) -> "torch.Tensor":
    """The hidden states of one layer, or the mean over the outputs of all layers, of a model's output."""
    import torch

    if layer == "last":
        return output.last_hidden_state
    if layer == "mean":
        return torch.stack(output.hidden_states[1:]).mean(0)
    return output.hidden_states[layer]


def batches_by_length(lengths: Sequence[int], budget: int, pass_cost: int) -> list[list[int]]:
    """Indices of items in batches of like lengths, longest first, cut where all passes together cost least.

    A pass over a batch costs as many steps as items × longest, padding included, and ``pass_cost``. Over the items in
    the order of their lengths the cheapest cut is found by dynamic programming.

    Args:
        lengths: of each item.
        budget: items × longest of a batch stays within it, unless one item alone exceeds it.
        pass_cost: what a pass costs beside its steps (launching its kernels, reading the weights), in steps.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    longest = np.array([lengths[index] for index in order])
    cost = np.zeros(len(order) + 1)
    starts = np.zeros(len(order) + 1, int)  # of the last batch, when the first so many items are batched
    first = 0
    for stop in range(1, len(order) + 1):
        while first < stop - 1 and longest[first] * (stop - first) > budget:
            first += 1
        candidates = np.arange(first, stop)
        costs = cost[first:stop] + longest[first:stop] * (stop - candidates) + pass_cost
        chosen = int(np.argmin(costs))
        starts[stop], cost[stop] = first + chosen, costs[chosen]
    batches: list[list[int]] = []
    stop = len(order)
    while stop:
        batches.append(order[starts[stop] : stop])
        stop = starts[stop]
    return batches[::-1]
